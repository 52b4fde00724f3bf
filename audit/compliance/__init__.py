"""The monthly report on one system: read from the rows of a published index alone, written as HTML, PDF and JSON.

`document.read_month` gives one typed document, `contents.sections` its sentences and tables, and each format prints these.
"""
