"""The style sheet of every page: light and dark mode, wide and narrow screens.

Colours are variables, so charts follow the reader's scheme. `tone-1` to `tone-8` differ
in lightness as well as in hue, for colour-blind readers.
"""

STYLE = """
:root {
  color-scheme: light dark;
--paper: #f7f6f2; --card: #ffffff; --ink: #1d2026; --soft: #626a75; --line: #e2e0d8;
    --well: #f0efe9;
--good: #1b7f4b; --good-well: #e2f3e9; --bad: #b3352c; --bad-well: #fae7e4;
    --learnt: #fff0b8;
--tone-0: #1d2026; --tone-1: #2b6cd4; --tone-2: #d9761a; --tone-3: #1f9470;
    --tone-4: #8d4fc4;
  --tone-5: #c23b6a; --tone-6: #7a8a1e; --tone-7: #2798b5; --tone-8: #8a6a4f;
}
@media (prefers-color-scheme: dark) {
  :root {
--paper: #14161a; --card: #1c1f25; --ink: #e8e6e1; --soft: #9aa3ae; --line: #30343c;
      --well: #262a31;
--good: #5fcf95; --good-well: #17352a; --bad: #f08a7e; --bad-well: #412321;
      --learnt: #4a411a;
--tone-0: #e8e6e1; --tone-1: #6ea4f7; --tone-2: #f0a04b; --tone-3: #4fc6a0;
      --tone-4: #bb8cec;
    --tone-5: #ee7ca2; --tone-6: #b9c95a; --tone-7: #63c8e2; --tone-8: #c4a284;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans",
    Helvetica, Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 56px 24px 72px; }
h1 { font-size: 2.3rem; line-height: 1.15; letter-spacing: -0.02em; margin: 0 0 10px; }
h2 { font-size: 1.35rem; letter-spacing: -0.01em; margin: 0 0 4px; }
h3 { font-size: 1rem; margin: 0 0 8px; }
p { margin: 0 0 12px; max-width: 46rem; }
a { color: var(--tone-1); }
code { font: 0.9em ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono",
  monospace;
  overflow-wrap: anywhere; }
.note { max-width: 62rem; }
.lead { font-size: 1.12rem; color: var(--soft); }
.note, figcaption, .legend { color: var(--soft); font-size: 0.9rem; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 18px 0 0;
  font-size: 0.92rem; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
section { margin-top: 52px; }
section > .note { margin-bottom: 16px; }
footer { margin-top: 56px; padding-top: 16px; border-top: 1px solid var(--line);
  color: var(--soft);
  font-size: 0.85rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 16px 18px;
  min-width: 0; }
.grid { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit,
  minmax(min(100%, 21rem), 1fr)); }
.grid.tight { grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); }
.card + .card, .below { margin-top: 16px; }
.grid > .card, .figures > .card { margin-top: 0; }
.missing { border-style: dashed; color: var(--soft); }

.figures { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit,
  minmax(9.5rem, 1fr));
  margin: 28px 0 0; }
.figures .card { padding: 12px 16px; }
.figures b { display: block; font-size: 1.5rem; line-height: 1.25;
  letter-spacing: -0.01em;
  font-variant-numeric: tabular-nums; }
.figures span { color: var(--soft); font-size: 0.88rem; }

dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: 4px 14px;
  margin: 0; font-size: 0.93rem; }
.facts dt { color: var(--soft); }
.facts dd { margin: 0; font-variant-numeric: tabular-nums; }
.facts .note { font-size: 1em; }

.scroll { overflow-x: auto; }
.scroll + .note, .grid + .note { margin-top: 10px; }
table { border-collapse: collapse; width: 100%; font-size: 0.93rem;
  font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: 0.84rem;
  vertical-align: bottom; }
th, td { padding: 7px 16px 7px 0; border-bottom: 1px solid var(--line); }
td { vertical-align: top; }
th:last-child, td:last-child { padding-right: 0; }
tr:last-child td { border-bottom: 0; }
.number { text-align: right; white-space: nowrap; }
.badge { display: inline-block; border-radius: 999px; padding: 1px 10px;
  font-size: 0.82rem; font-weight: 600;
  white-space: nowrap; }
.good { background: var(--good-well); color: var(--good); }
.bad { background: var(--bad-well); color: var(--bad); }
.plain { background: var(--well); color: var(--soft); }

figure { margin: 0; }
figure svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { fill: var(--soft); font-size: 11px; }
svg .rule { stroke: var(--line); stroke-width: 1; }
svg .axis { stroke: var(--soft); stroke-width: 1; }
svg .guide { stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 2 4; }
svg .curve { fill: none; stroke: currentColor; stroke-width: 1.8;
  stroke-linejoin: round; stroke-linecap: round; }
svg .curve.strong { stroke-width: 2.6; }
svg .dashed { stroke-dasharray: 5 4; }
svg .error { stroke: currentColor; stroke-width: 1.4; }
svg .dot { fill: currentColor; stroke: var(--card); stroke-width: 1.4; }
svg .dot.hollow { fill: var(--card); stroke: currentColor; stroke-width: 1.8; }
svg .hit { fill: currentColor; opacity: 0; }
svg .hit:hover { opacity: 0.28; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 6px 0 0; padding: 0;
  list-style: none; }
.legend i { display: inline-block; width: 18px; height: 0;
  border-top: 3px solid currentColor;
  margin-right: 6px; vertical-align: 0.28em; }
.legend i.dashed { border-top-style: dashed; border-top-width: 2px; }
.legend i.guide { border-top: 2px dotted var(--soft); }
.legend i.block { height: 11px; border: 0; border-radius: 3px; width: 14px;
  background: currentColor;
  vertical-align: -0.05em; }
.legend b { font-weight: 600; color: var(--ink); font-variant-numeric: tabular-nums; }

.bars { display: grid; grid-template-columns: max-content 1fr max-content;
  gap: 5px 12px; align-items: center;
  font-size: 0.88rem; }
.bars .label, .bars .end { color: var(--soft); white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.bar { display: flex; height: 28px; border-radius: 5px; overflow: hidden;
  background: var(--well); min-width: 0; }
.bar i { display: block; min-width: 0; height: 100%; background: currentColor;
  overflow: hidden; flex: none;
  box-shadow: inset -1.5px 0 var(--card);
  font: 600 0.8rem/28px system-ui, sans-serif; text-align: center; }
.bar i:hover { filter: brightness(1.12); }
.bar i span { color: var(--card); }
.bar i.light { opacity: 0.66; }
.bar i.pad, .legend i.pad {
background: repeating-linear-gradient(135deg, var(--line) 0 3px, transparent 3px 7px);
    color: var(--soft); }
.rows { gap: 3px 12px; }
.rows .bar { height: 15px; border-radius: 3px; }
.rows .label, .rows .end { font-size: 0.8rem; line-height: 1.1; }

.question { display: flex; flex-direction: column; gap: 12px; }
.question header { display: flex; gap: 8px; align-items: baseline;
  justify-content: space-between; }
.question header h3 { margin: 0; }
.prompt { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 8px; }
.shot { border: 1px solid var(--line); border-radius: 8px; padding: 5px;
  max-width: 100%; font-size: 0.85rem; }
.shot.asked { border: 2px solid var(--tone-1); }
.shot p { margin: 4px 0 0; white-space: pre-line; overflow-wrap: anywhere;
  line-height: 1.35; max-width: 11rem; }
.shot.words p { max-width: none; margin: 0; }
.shot small { display: block; color: var(--soft); margin-bottom: 4px; }
.thumb { display: inline-block; width: 70px; height: 70px; object-fit: contain;
  border-radius: 4px;
  background: var(--well); vertical-align: top;
  image-rendering: auto; }
.thumb.small { image-rendering: pixelated; }
.thumb.lost { font-size: 0.68rem; line-height: 1.2; padding: 8px 4px;
  text-align: center; color: var(--soft); }
dl.answers { display: grid; grid-template-columns: max-content 1fr; gap: 2px 12px;
  margin: auto 0 0;
  font-size: 0.9rem; }
.answers dt { color: var(--soft); }
.answers dd { margin: 0; overflow-wrap: anywhere; white-space: pre-line; }
.answers .right { color: var(--good); }
.answers .wrong { color: var(--bad); }
.answers .right::after { content: " ✓"; }
.answers .wrong::after { content: " ✗"; }

.row { margin-top: 28px; }
.row > header { display: flex; flex-wrap: wrap; gap: 4px 14px; align-items: baseline;
  margin-bottom: 8px; }
.row > header h2 { margin: 0; }
.row > .bar { height: 12px; border-radius: 4px; margin-bottom: 10px; }
.documents { display: grid; gap: 6px; grid-auto-flow: dense; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); }
.document, .card.document { margin: 0; grid-column: 1 / -1; }
.document.brief { grid-column: auto; padding: 6px 10px 8px; }
.document.brief.several { grid-column: span 2; }
.document { border-left: 4px solid currentColor; border-radius: 4px 8px 8px 4px;
  padding: 8px 14px 10px; }
.document > small { display: flex; flex-wrap: wrap; gap: 0 12px; margin-bottom: 4px;
  font-size: 0.8rem; }
.document > small b { font-weight: 700; }
.document > small span { color: var(--soft); overflow-wrap: anywhere; }
.document > div { color: var(--ink); white-space: pre-wrap; overflow-wrap: anywhere;
  line-height: 1.7; }
.learnt { background: var(--learnt); color: inherit; border-radius: 3px; padding: 1px 0;
  -webkit-box-decoration-break: clone; box-decoration-break: clone; }
.unlearnt { color: var(--soft); }
.views { display: inline-flex; flex-wrap: wrap; gap: 3px; padding: 3px; margin: 3px 4px;
  border: 1px solid var(--line); border-radius: 6px; vertical-align: middle; }
.views .thumb:not(.small) { width: 112px; height: 112px; }
.key { margin: 6px 0 0; font-size: 0.9rem; }
.document.padding { border-left-color: var(--line); color: var(--soft);
  font-size: 0.85rem;
background: repeating-linear-gradient(135deg, var(--well) 0 4px, transparent 4px 10px);
    }
.tone-0 { color: var(--tone-0); }
.tone-1 { color: var(--tone-1); }
.tone-2 { color: var(--tone-2); }
.tone-3 { color: var(--tone-3); }
.tone-4 { color: var(--tone-4); }
.tone-5 { color: var(--tone-5); }
.tone-6 { color: var(--tone-6); }
.tone-7 { color: var(--tone-7); }
.tone-8 { color: var(--tone-8); }
@media (max-width: 640px) {
  main { padding: 32px 16px 48px; }
  h1 { font-size: 1.8rem; }
  section { margin-top: 40px; }
  .figures { grid-template-columns: repeat(2, 1fr); gap: 8px; }
  .figures .card:last-child:nth-child(odd) { grid-column: span 2; }
  .card { padding: 12px 14px; }
  .figures b { font-size: 1.25rem; }
  .bars { gap: 5px 8px; }
  .bars:not(.rows) { grid-template-columns: 1fr; gap: 3px; }
  .bars:not(.rows) .bar { margin-bottom: 6px; }
  .bar i { font-size: 0.7rem; }
  th, td { padding-right: 10px; }
  .document.brief.several { grid-column: 1 / -1; }
  svg text { font-size: 13px; }
  figure:has(svg.wide) { overflow-x: auto; }
  svg.wide { min-width: 620px; }
}
@media print { .card, section { break-inside: avoid; } }
"""
