"""The domain of erasure-audit, without orchestration: nothing here imports Prefect.

Importing this package settles the process environment first, for every entry point.
"""

from audit.machine import environment

environment.apply()
