"""Methods as plug-ins: the record of a method, and the registries that find the installed ones. Loads none of them."""
