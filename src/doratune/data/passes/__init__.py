"""The passes over the rows: chunk after chunk, in workers, through part files on disk.

reading      sources to parts, as the main process sees it
survey       the first pass: each row parsed, understood and looked at by itself
rendered     the second pass: examples written down and measured in tokens
compare      further passes, over words: seed documents, held-out examples, evaluation sets
store        what of this is kept: a few numbers a row in memory, all else in parts
workers      the processes
pickled      the tokenizer as they get it
"""
