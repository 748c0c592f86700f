"""`make bench`: Perdure, the floors below it and DBOS at the same work, on one machine in one run.

What lives here: the programs that are measured and the report about them. What must not: anything that the product
imports. Modules that run inside the environment of DBOS (`measure`, `dbos_subject`) import nothing of Perdure.
"""
