"""What is looked for in the data: one file a gate, named as in a recipe's ``gates`` section.

Every gate is a pure function over texts or arrays. What happens to what is found (report, mask,
drop, fail) is decided by the data stage, not here. ``words`` is shared by the gates that compare
word n-grams.
"""
