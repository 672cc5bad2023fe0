"""jobmeter_analysis: from the folder of one attempt to a table of KPIs.

What a notebook needs is in ``jobmeter``; ``engine`` computes a table and ``report`` writes it.
Nothing is imported here: ``jobmeter --help`` must not wait for numpy and pandas.
"""
