# SPDX-License-Identifier: Apache-2.0
"""A report as data and as text: figures against those of another report, tables of docs/BENCHMARKS.md.

A report is {"quick", "parts": {name: part}}; a part is {"title", "date", "machine", "load", "commands", "tables", "notes",
"figures", "plots", "skipped"}. A table is {"title", "columns", "rows", "below"}; a figure is {"id", "value", "unit", "better"}, where
better is "more", "less", or "same" for what does not depend on the machine.
"""
import re

from . import machine

BEGIN = "<!-- tests/bench/run writes from here"
END = "<!-- to here -->"
TOLERANCE = {"more": 0.10, "less": 0.10, "same": 0.005}


def figure(name, value, unit, better):
    return {"id": name, "value": value, "unit": unit, "better": better}


def change(new, old):
    """How much worse, as a share of the old value; negative: better. What should stay is worse in either direction."""
    if old["value"] == 0:
        return 0.0 if new["value"] == 0 or new["better"] == "more" else float("inf")
    ratio = new["value"] / old["value"] - 1
    return {"more": -ratio, "less": ratio, "same": abs(ratio)}[new["better"]]


def compare(part, old):
    """{"against", "worse", "better", "gone", "n"}, or {"not": why} where two runs of a part cannot be held against each other."""
    if not old:
        return {"not": "the other report does not have it"}
    if part.get("quick", False) != old.get("quick", False):
        return {"not": "a quick run measures other sizes"}
    of_machine = {f["id"] for f in part["figures"] if f["better"] != "same"}
    other = not machine.same(part["machine"], old["machine"])
    before = {f["id"]: f for f in old["figures"]}
    found = {"against": old["date"], "worse": [], "better": [], "n": 0, "gone": sorted(set(before) - {f["id"] for f in part["figures"]})}
    if other:
        found["other_machine"] = old["machine"]["cpu"]
    for new in part["figures"]:
        if new["id"] not in before or (other and new["id"] in of_machine):
            continue
        found["n"] += 1
        by = change(new, before[new["id"]])
        if abs(by) > TOLERANCE[new["better"]]:
            found["worse" if by > 0 else "better"].append({**new, "old": before[new["id"]]["value"], "by": by})
    for key in ("worse", "better"):
        found[key].sort(key=lambda f: -abs(f["by"]))
    return found


def say_comparison(name, found):
    """Lines for people."""
    if "not" in found:
        return [f"{name}: not compared: {found['not']}"]
    lines = [f"{name}: {found['n']} figures against those of {found['against']}: {len(found['worse'])} worse, {len(found['better'])} better"
             + (f"; speeds not compared, the other machine is {found['other_machine']}" if "other_machine" in found else "")]
    lines += [f"  {'WORSE' if key == 'worse' else 'better'}: {f['id']} {f['old']:.4g} -> {f['value']:.4g} {f['unit']} ({100 * abs(f['by']):.1f} %)"
              for key in ("worse", "better") for f in found[key]]
    return lines + [f"  gone: {one}" for one in found["gone"]]


def table(columns, rows):
    return "\n".join(["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
                     + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def describe(part):
    m = part["machine"]
    text = f"{part['date']}; {m['cores']} cores of {m['cpu']}, {', '.join(m['flags']) or 'no flags told'}; {m['memory_mib']} MiB"
    text += f"; governor {m['governor']}; Linux {m['kernel']}; {m['compiler']}; commit {m['commit']}"
    load = part.get("load")
    if load:
        text += f"; before it {100 * load['used']:.0f} % of the processors were in use, load {load['load_1m']:g}"
    return text + "."


def section(part, folder):
    out = [f"### {part['title']}", describe(part)]
    out += ["Made by:\n" + "\n".join(f"`{command}`  " for command in part["commands"]).rstrip()]
    out += [note for note in part.get("notes", [])]
    for one in part["tables"]:
        out += [f"{one['title']}:", table(one["columns"], one["rows"])]
        out += [one["below"]] if one.get("below") else []
    out += [f"![{part['title']}]({folder}{plot})" for plot in part.get("plots", [])]
    out += [f"Left out: {reason}." for reason in part.get("skipped", [])]
    return "\n\n".join(out)


def render(report, folders=False):
    """What stands between the marks of docs/BENCHMARKS.md; with folders, plots lie in one of each part's name."""
    return "\n\n".join(section(part, f"{name}/" if folders else "") for name, part in report["parts"].items())


def put(text, report):
    """The page with the generated part anew."""
    found = re.search(rf"({re.escape(BEGIN)}[^\n]*\n).*?({re.escape(END)})", text, re.S)
    if not found:
        raise ValueError(f"the page has no line that begins with {BEGIN!r} and none that is {END!r}")
    return text[:found.end(1)] + "\n" + render(report) + "\n\n" + text[found.start(2):]
