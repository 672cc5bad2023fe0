"""Prometheus exporters for one batch job on one node.

They run inside the job, without root, one process and one port for all collectors of a node:
``python -m jobmeter_exporters cgroup --run-id ID``. Adding one is a file and a line in
``registry.py``.
"""
