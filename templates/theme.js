// Applies the theme the reader chose last time, before the first paint.
(() => {
  try {
    const chosen = localStorage.getItem("traceql-theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch { /* storage may be closed to files; the system's theme holds then */ }
  document.documentElement.classList.add("js");
})();
