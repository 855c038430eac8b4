"""A database that does not answer: how it is noticed, what still works, and what its errors mean."""
