"""Orchestration: flows, the command line and nothing of the domain. Importing this settles the environment first."""

from flows import environment

environment.apply()
