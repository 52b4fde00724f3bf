"""The domain: what an audit is, without orchestration. Nothing here imports Prefect."""
