"""The data gates as functions, on texts of your own: no recipe, no model."""

import numpy as np

from doratune.data.gates import encoding, near_duplicates, personal_data

texts = [
    "The Supplier's total liability under this Agreement shall not exceed the fees paid.",
    "The Supplier’s total liability under this agreement shall not exceed the fees paid!",
    "Notices go to legal@alder-bank.eu, or by telephone to +44 20 7946 0958.",
    "Either party may terminate this Agreement on thirty days\u200b notice.",
]

for text in texts:
    if encoding.kinds(text):
        print(encoding.why(text))
    for found in personal_data.find(text):
        print(f"{found.kind} at characters {found.start} to {found.end}")
print(personal_data.mask(texts[2]))

first = near_duplicates.clusters(near_duplicates.sketch(texts), threshold=0.8)
for index in np.flatnonzero(first != np.arange(len(texts))):
    print(f"text {index} says nearly the same as text {first[index]}")
