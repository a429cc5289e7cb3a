"""The matrix of bad input: one row a case, each through the real entry points; `python -m tests.bad_input` prints it.

A case builds its input in an empty folder and says what is to be seen: a clip that is scored, a clip that is skipped
with a reason, a table that is loaded, a recipe that is parsed, or an error with a text. Nothing here is mocked.
"""
