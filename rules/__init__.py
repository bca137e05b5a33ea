"""The built-in rules, one a file; the module's docstring is the rule's page."""
