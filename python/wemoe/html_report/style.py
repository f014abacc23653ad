"""The style sheet of the report: light and dark, wide and narrow, on screen and on paper."""

STYLE = """
:root{color-scheme:light dark;--ink:#1c2127;--soft:#5c6670;--line:#d9dee3;--page:#fff;--panel:#f5f7f9;--accent:#d94801;
--best:#fdebdc;--bad:#b3261e;--badbg:#fde7e5;--static:#2f7fc1;--entropy:#2f9a48;--infomax:#7d74b8;--bars:#57789c}
@media (prefers-color-scheme:dark){:root{--ink:#e4e7ea;--soft:#9aa5b1;--line:#39414a;--page:#15191e;--panel:#1e242b;
--accent:#ff8c42;--best:#4a2c14;--bad:#ff8a80;--badbg:#4a1f1c;--static:#62a8e0;--entropy:#62c47a;--infomax:#a79fe0;--bars:#8fb0d4}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:76rem;padding:1.5rem clamp(.8rem,3vw,2.5rem) 4rem;background:var(--page);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif}
h1{font-size:clamp(1.5rem,4.5vw,2.3rem);line-height:1.2;margin:.5rem 0}
h2{font-size:1.4rem;margin:3rem 0 .6rem;padding-top:.8rem;border-top:1px solid var(--line)}
h3{font-size:1.1rem;margin:1.8rem 0 .3rem}
p,li{max-width:48rem}
ul{padding-left:1.2rem}
li{margin:.45rem 0}
.lead,.note,figcaption,caption{color:var(--soft)}
.note,figcaption{font-size:.88rem}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;font-size:.92rem;margin:1rem 0}
a{color:var(--static)}
small{font-size:.8em;color:var(--soft);font-weight:400}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.8rem;margin:1.2rem 0}
.card{background:var(--panel);border-radius:.6rem;padding:.8rem 1rem}
.card dt{color:var(--soft);font-size:.88rem}
.card dd{margin:0;font-size:1.7rem;font-weight:650}
.card.chosen{outline:2px solid var(--accent)}
.card.chosen dd{color:var(--accent)}
.scroll{overflow-x:auto;margin:1rem 0;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums;min-width:min(100%,28rem)}
caption{text-align:left;padding:.2rem 0 .5rem;font-size:.88rem}
caption span{display:inline-block;position:sticky;left:0;max-width:min(48rem,calc(100vw - 2.5rem))}
th,td{padding:.28rem .6rem;border-bottom:1px solid var(--line);text-align:right;vertical-align:top;white-space:nowrap}
thead th{white-space:normal;max-width:8.5rem;
color:var(--soft);font-weight:600;vertical-align:bottom;border-bottom-width:2px}
tbody th,thead th:first-child{text-align:left;position:sticky;left:0;background:var(--page);z-index:1}
tbody th{font-weight:500}
tr.chosen th{color:var(--accent);font-weight:650}
tr.reference th,tr.reference td{color:var(--soft)}
td.best{background:var(--best)}
td.warning,td.warning small{color:var(--bad)}
td.warning{background:var(--badbg)}
td small{display:block;line-height:1.1}
table.facts td,table.facts thead th{text-align:left;white-space:normal;overflow-wrap:anywhere}
table.heatmap td{text-align:center}
table.panels td{border:0;padding:.15rem .25rem}
table.panels th{border:0}
table.panels thead th:not(:first-child),table.heatmap thead th:not(:first-child){text-align:center}
table.panels tbody th{vertical-align:middle}
figure{margin:1.2rem 0}
.chart{border-bottom:1px solid var(--line)}
.method{display:grid;grid-template-columns:13rem 1fr 3rem;gap:.6rem;align-items:center;min-height:1.75rem;
font-size:.9rem}
.method b{text-align:right;font-variant-numeric:tabular-nums}
.track{position:relative;height:1.75rem;border-top:1px solid var(--line);margin:0 .5rem}
.track.axis{border:0;height:1.5rem}
.track.axis span{position:absolute;transform:translateX(-50%);color:var(--soft);font-size:.8rem}
.mark{display:inline-block;width:.8rem;height:.8rem;border-radius:50%;background:var(--static);
border:1px solid var(--page)}
.track .mark{position:absolute;top:50%;transform:translate(-50%,-50%)}
.mark.match{background:var(--accent)}
.mark.entropy{background:var(--entropy);border-radius:15%}
.mark.infomax{background:var(--infomax);border-radius:0 50%}
.guide{display:inline-block;border-left:2px dotted var(--soft);height:1rem;vertical-align:middle}
.guide.individual{border-left-style:dashed}
.track .guide{position:absolute;top:-1px;height:calc(100% + 1px)}
.key{display:inline-block;margin-right:1rem;white-space:nowrap}
.key .mark,.swatch{vertical-align:-.08em}
.swatch{display:inline-block;width:.8rem;height:.8rem;border-radius:.15rem}
.histogram{display:block;height:1.4rem;margin:.15rem 0 .15rem auto;border-bottom:1px solid var(--soft)}
.histogram path{fill:var(--bars)}
.warning .histogram path{fill:var(--bad)}
.panel{display:block;height:3.2rem;margin:auto}
.panel .own{stroke:var(--ink);stroke-width:1.2}
.panel .baseline{stroke:var(--soft);stroke-width:.6;fill:none}
details{margin:.6rem 0;border-left:3px solid var(--line);padding-left:.8rem}
summary{cursor:pointer;font-weight:600}
footer{margin-top:3rem;color:var(--soft);font-size:.85rem}
@media (max-width:40rem){body{font-size:15px}th,td{padding:.25rem .4rem}
.method{grid-template-columns:1fr 3rem;gap:0 .4rem;padding:.15rem 0}.method>span:first-child{grid-column:1/-1}
tbody th{max-width:9.5rem;white-space:normal}}
@media print{:root{color-scheme:light}body{max-width:none;padding:0;font-size:10pt}nav{display:none}
.scroll{overflow:visible}table{font-size:7.5pt}th,td{padding:.12rem .3rem}.card,figure,tr,.method{break-inside:avoid}
h2,h3,summary{break-after:avoid}details::details-content{content-visibility:visible;display:block}
.panel{height:2rem}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
