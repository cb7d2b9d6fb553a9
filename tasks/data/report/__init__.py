"""The run's report: what was measured, as a comparison, samples, a model card and one self-contained page.

evaluations   what `evaluate` left, read once into typed values
training      what `train` left: the loss history
lineage       what the manifests say about data, base, adapter and merged model
comparison    every target against the base: the table that page, terminal and Prefect UI share
tables        that table as plain text and as Markdown
samples       which test rows are shown, and what every target answered
headline      what the run comes to: base, tuned and quantised in one figure each
difference    where an answer leaves its reference
charts        curves as inline SVG
card, page    README.md and index.html
"""
