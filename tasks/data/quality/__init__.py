"""Quality rules: what is wrong with a row by itself, or beside the others. Every rule is set in `prepare.quality`.

By itself (`examination.examine`): personal data, language, refusals, loops. Beside the others: near duplicates,
contamination, repeated answers, lengths. What was found is added up in a `tally.Tally`.
"""
