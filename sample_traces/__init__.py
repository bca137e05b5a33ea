"""Small real captures; samples.toml describes them."""
