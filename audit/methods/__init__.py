"""Methods as plug-ins: what a method is, and how the installed ones are found. Importing this loads none of them."""
