"""The report of a run: one page that a reader who was not there understands.

`model` says what is told, from records alone; `page` shows it as HTML, `markdown` as Markdown, `pictures` draws.
"""
