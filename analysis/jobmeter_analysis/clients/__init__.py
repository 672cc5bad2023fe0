"""What the load generators of a phase measured themselves: one module per tool.

Each number is called as the server's number of the same definition, so that the two can be laid
side by side. The tools' own words are no guide: what AIPerf calls inter token latency is the time
per output token of the others.
"""

from jobmeter_analysis.clients.numbers import ClientResults, Number
from jobmeter_analysis.clients.reading import ClientNumber, client_rows, read_client_results

__all__ = ["ClientNumber", "ClientResults", "Number", "client_rows", "read_client_results"]
