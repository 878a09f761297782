"""`mm1 report`: one run, or several beside one another, as a folder that opens without
a network.

open_runs.py    run folders, checked
facts.py        what each run is, and how their configs differ
curves.py       metrics.jsonl and speed.jsonl for the charts, which `page.js` draws
score_parts.py  scores over shots, with controls
answers.py      every question with its prompt and the runs' answers, in files that the
                page loads when they are asked for
write.py        the folder
uplot/          the plotting library, as its authors publish it
"""
