"""Test runs: the project's own tests on a node of a site, and what became of them.

``plan`` decides, ``run`` submits and follows, ``plugin`` writes the JUnit file inside of pytest,
``junit`` reads it, ``display`` says it.
"""
