"""Style sheet of the page."""

CSS = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #62676e; --line: #e2e2dd; --paper: #fdfdfb; --wash: #f5f5f1;
  --accent: #0b66a0; --wrong: #b3471b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e6e1; --soft: #a2a6ab; --line: #33363b; --paper: #17191c;
  --wash: #1f2226; --accent: #6fb7e6; --wrong: #f0894a; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans", "Helvetica Neue", sans-serif; }
main { max-width: 64rem; margin: 0 auto; padding: 3.5rem 1.25rem 5rem; }
p, dl, aside ul, .checks { max-width: 44rem; }
.brand { margin: 0; color: var(--accent); font-size: .85rem; letter-spacing: .04em; }
h1 { margin: .2rem 0 .8rem; font-size: 2.1rem; line-height: 1.15; font-weight: 600; letter-spacing: -.015em; }
h2 { margin: 3.2rem 0 1rem; font-size: 1.25rem; font-weight: 600; letter-spacing: -.005em; }
h3 { margin: 1.8rem 0 .4rem; font-size: 1rem; font-weight: 600; }
.lead { font-size: 1.08rem; color: var(--soft); }
.lead b { color: var(--ink); }
.wide { overflow-x: auto; margin: 0 0 2rem; }
.wide:focus-visible, summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 0 0 .6rem; color: var(--soft); font-size: .9rem; }
.numbers { width: 100%; font-size: .92rem; }
.numbers th, .numbers td { padding: .5rem .6rem; text-align: left; vertical-align: top; }
.numbers th:first-child { padding-left: 0; }
.numbers td:last-child, .numbers th:last-child { padding-right: 0; }
.numbers thead th { color: var(--soft); font-weight: 500; font-size: .82rem; line-height: 1.25; vertical-align: bottom;
  border-bottom: 1px solid var(--ink); }
.numbers .n { text-align: right; }
.numbers.prose { font-size: .86rem; }
.numbers.prose .n { text-align: left; overflow-wrap: anywhere; }
.numbers.prose thead th { color: var(--ink); font-weight: 600; font-size: .86rem; }
.numbers.prose tbody .name, .numbers.prose tbody .name ~ td { border-top: 1px solid var(--line); }
.numbers.prose tbody .name { color: var(--soft); font-weight: 500; min-width: 9rem; }
.numbers tbody th { overflow-wrap: break-word; min-width: 5.5rem; }
.numbers tbody .name { font-weight: 600; }
.numbers .again span { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.notes, .note { color: var(--soft); font-size: .9rem; max-width: 44rem; }
.notes { padding-left: 1.1rem; margin-top: -1.2rem; }
.numbers tr:not(:first-child) .name, .numbers tr:not(:first-child) .name ~ td { border-top: 1px solid var(--line); }
.numbers b { font-weight: 600; }
.numbers small { display: block; color: var(--soft); font-size: .76rem; white-space: nowrap; }
.numbers td.n { white-space: nowrap; }
.numbers.prose td.n { white-space: normal; }
@media (min-width: 66rem) {
  .line th, .line td { padding: .32rem .5rem; }
  .line small { display: inline-block; min-width: 6.9em; text-align: left; padding-left: .25em; }
}
figure { margin: 2.2rem 0; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { margin-top: .5rem; color: var(--soft); font-size: .9rem; max-width: 44rem; }
.strip { font-size: .82rem; }
.strip caption { color: var(--ink); font-weight: 600; }
.strip th { font-weight: 500; color: var(--soft); text-align: left; padding: .15rem .8rem .15rem 0; }
.strip thead th, .strip td { text-align: center; padding: .15rem; white-space: nowrap; }
.strip tbody th { position: sticky; left: 0; background: var(--paper); }
.strip img { display: block; width: 76px; height: 76px; object-fit: contain; background: var(--wash);
  border-radius: 3px; }
.strip span { display: block; max-width: 76px; white-space: normal; font-size: .74rem; line-height: 1.5;
  color: var(--soft); }
.strip .share td, .strip .share th { color: var(--soft); padding-top: .3rem; }
.coarse { image-rendering: pixelated; }
.wrong, .strip .wrong { color: var(--wrong); font-weight: 600; }
.strip .correct { color: var(--ink); }
.undecided { color: var(--soft); }
aside { margin: 2rem 0; padding: .2rem 1.2rem; border-left: 3px solid var(--wrong); background: var(--wash); }
aside.quiet { border-left-color: var(--line); }
aside.quiet h2 { color: var(--ink); }
aside h2 { margin: .9rem 0 .5rem; font-size: 1rem; color: var(--wrong); }
aside ul { padding-left: 1.1rem; }
li { margin: .35rem 0; }
.checks { list-style: none; padding: 0; }
.checks span { color: var(--ink); font-weight: 400; }
dt { font-weight: 600; margin-top: .6rem; }
dd { margin: 0; }
code, pre { font: .84em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
pre { overflow-x: auto; padding: 1rem; background: var(--wash); border-radius: 4px; max-height: 30rem; }
summary { cursor: pointer; color: var(--accent); padding: .25rem 0; }
@media (max-width: 40rem) {
  main { padding-top: 2rem; }
  h1 { font-size: 1.7rem; }
  .strip img { width: 52px; height: 52px; }
  .numbers, .numbers caption, .numbers tbody, .numbers tr, .numbers tbody th, .numbers td { display: block; }
  .numbers thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .numbers tbody th, .numbers td { padding: .12rem 0; border: 0; }
  .numbers tbody .name { font-size: 1.05rem; border-top: 1px solid var(--line); padding-top: .8rem; margin-top: .8rem; }
  .numbers tr:not(:first-child) .name ~ td { border-top: 0; }
  .numbers .again { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .numbers .about { margin-top: .5rem; color: var(--accent); }
  .numbers .about ~ .about { margin-top: 0; color: var(--soft); }
  .numbers.prose .n { display: flex; }
  .numbers td.n { display: flex; justify-content: space-between; }
  .numbers td.none { display: none; }
  .numbers .n::before { content: attr(data-label); color: var(--soft); }
  .numbers small { display: inline-block; min-width: 6.6em; font-size: .82rem; }
}
@media print { main { max-width: none; } .wide { overflow: visible; } }
"""
