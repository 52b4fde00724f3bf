"""The measured parts of audit/testbed/README.md, each written from one finished run: `python -m deployments.testbed_page`."""
