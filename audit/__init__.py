"""The domain: what an audit is, without orchestration. Nothing here imports Prefect.

Importing this settles the environment first, for every entry point.
"""

from audit.machine import environment

environment.apply()
