"""Pages over all runs of a published index: pure functions of an index and a query, for a static site and for a server.

`site` turns a page's name and query into HTML, `building` writes every page that is linked into a folder, `serving` answers
requests. No page runs a script or loads anything but its style sheet.
"""
