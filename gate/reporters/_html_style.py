"""How the HTML report looks: light, dark and on paper; colours have enough contrast in each."""

_LIGHT = (
    "--ink:#1b1f24;--paper:#fff;--faint:#57606a;--line:#d0d7de;--band:#f4f6f8;"
    "--pass:#116329;--fail:#b3161b;--open:#7d4e00;--waived:#6f359f;--fp32:#0b62c4;--int8:#b2440b"
)
_DARK = (
    "--ink:#e6e8eb;--paper:#15181c;--faint:#a8b1bb;--line:#434b55;--band:#20252b;"
    "--pass:#6ad48a;--fail:#ff9189;--open:#e6b655;--waived:#cfa8ee;--fp32:#7db7ff;--int8:#ffa46b"
)
_PAGE = """
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;color:var(--ink);
background:var(--paper);max-width:72rem;margin:0 auto;padding:1.2rem 1.2rem 3rem;
overflow-wrap:anywhere}
h1{font-size:1.7rem;line-height:1.25;margin:.2rem 0}
h2{font-size:1.2rem;margin:2.2rem 0 .5rem;padding-top:.6rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.4rem 0 .3rem}
p{margin:.4rem 0}ul{margin:.4rem 0;padding-left:1.3rem}
a{color:var(--fp32)}
.faint{color:var(--faint);font-size:.9rem}
.banner{border-left:.5rem solid var(--tone);background:var(--band);padding:.8rem 1.1rem}
.banner .because{font-size:1.05rem;font-weight:600}
.pass{--tone:var(--pass)}.fail{--tone:var(--fail)}.inconclusive{--tone:var(--open)}
.waived{--tone:var(--waived)}
.outcome{color:var(--tone);font-weight:600;white-space:nowrap}
.notice{border-left:4px solid var(--open);background:var(--band);padding:.4rem .8rem}
nav ul{display:flex;flex-wrap:wrap;gap:.2rem 1rem;list-style:none;padding:0}
.skip{position:absolute;left:-99rem}.skip:focus{position:static}
:focus-visible{outline:3px solid var(--fp32);outline-offset:2px}
.wide{overflow-x:auto;margin:.5rem 0}
table{border-collapse:collapse;font-size:.87rem;font-variant-numeric:tabular-nums;min-width:30rem}
caption{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
th,td{padding:.25rem .7rem .25rem 0;text-align:left;vertical-align:top;
border-bottom:1px solid var(--line)}
thead th{color:var(--faint);vertical-align:bottom;overflow-wrap:normal}
tbody th{font-weight:500;min-width:9rem}
.number{text-align:right}td.number{white-space:nowrap}
.blocking th,.blocking .number{font-weight:700}
.group th{font-weight:700;background:var(--band)}
.nested th{padding-left:1.2rem}
.why{min-width:15rem}
pre{background:var(--band);border:1px solid var(--line);padding:.6rem .8rem;overflow-x:auto;
font:13px/1.45 ui-monospace,monospace;white-space:pre-wrap}
code{font-family:ui-monospace,monospace}
details{margin:.6rem 0}summary{cursor:pointer;font-weight:600;padding:.2rem 0}
figure{margin:.6rem 0}
.side{display:flex;flex-wrap:wrap;gap:1rem}.side>*{flex:0 1 33rem;min-width:0}
figcaption{font-weight:600}
svg{display:block;width:100%;height:auto;min-width:40rem}
.side svg{min-width:22rem}
svg text{fill:var(--ink);font:12px system-ui,sans-serif}
svg .small{fill:var(--faint);font-size:11px;paint-order:stroke;stroke:var(--paper);
stroke-width:4px}svg .strong{font-weight:700}
svg .right{fill:var(--tone);font-weight:600}
.grid{stroke:var(--line);fill:none}.limit{stroke:var(--ink);stroke-width:1.5;fill:none}
.none{stroke:var(--faint);stroke-dasharray:2 3;fill:none}
.bar{stroke:var(--tone);stroke-width:2.5;fill:none}
.mark{fill:var(--tone);stroke:var(--tone);stroke-width:1.5}
.mark.inconclusive{fill:var(--paper)}
.zone{fill:var(--band)}
.curve{fill:none;stroke-width:2}
.s0{--tone:var(--fp32)}.s1{--tone:var(--int8)}.s2{--tone:var(--pass)}.s3{--tone:var(--waived)}
.s4{--tone:var(--open)}.s5{--tone:var(--fail)}
.s0,.s1,.s2,.s3,.s4,.s5{stroke:var(--tone)}
.s0{stroke-dasharray:6 3}.s2{stroke-dasharray:2 3}.s3{stroke-dasharray:8 3 2 3}
circle.dot{fill:var(--tone);stroke-dasharray:none}
rect.share{fill:var(--int8)}
"""
_PRINT = """
@media print{body{max-width:none;padding:0;font-size:10pt}nav,.skip{display:none}
.wide,pre{overflow:visible}svg{min-width:0}
svg,tr,.banner,figure{break-inside:avoid}h2,h3,summary{break-after:avoid}
*{print-color-adjust:exact}}
"""
STYLE = (
    f":root{{color-scheme:light dark;{_LIGHT}}}"
    f"@media screen and (prefers-color-scheme:dark){{:root{{{_DARK}}}}}{_PAGE}{_PRINT}"
)
