"""``jobmeter doctor``: what works here, said before a job is submitted.

    probe (bash) -> facts -> judge -> findings -> table, JSON, exit code

The probe gathers facts and thinks nothing of them; the same script runs on this machine and, in a
job of one minute, on compute nodes. Judges are pure functions from facts to a verdict, so that they
are tested on recorded facts without the hardware.
"""
