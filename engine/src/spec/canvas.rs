//! `canvas:` of a document: from a [`Tree`] to a [`Canvas`], and on to a plan.

use super::{
    Builder, CompileOptions, Compiled, Diagnostic, Document, Path, Task, Tree,
    builder::Place,
    check::check_argument,
    compile::{Compiler, build},
    fits::check_settings,
    graph::{from_problem, too_many_tasks},
    inputs::resolve_inputs,
    names::fault,
    project::unknown,
    reader::{At, Findings, shown},
    tasks::{amount, options},
    treatment::labels,
};
use crate::{
    canvas::{
        Around, Called, Canvas, Fault, MAX_DEPTH, MAX_LABEL, MAX_LABELS, Marks, Shape,
        Siblings, Signature, Whole, lower,
    },
    plan::{Plan, Scope},
};

const SHAPES: &[&str] =
    &["kind", "chain", "group", "chord", "map", "starmap", "chunks"];
const MARKS: &[&str] = &["on_success", "on_failure", "labels", "siblings", "tolerate"];
const SIGNATURE: &[&str] = &["kind", "args", "kwargs", "immutable", "whole", "options"];
const SUCH_AS: &str = "write a call such as `[add, 1, 2]` or `{ kind: add, args: [1, 2] }`, \
                       or one of chain, group, chord, map, starmap, chunks";

/// Reads an expression; `None` where there is none, which is reported.
pub(super) fn read(
    value: &Tree,
    at: &At<'_>,
    depth: usize,
    findings: &mut Findings,
) -> Option<Canvas> {
    if depth > MAX_DEPTH {
        findings.add(too_deep(), at);
        return None;
    }
    match value {
        Tree::List(items) => short(items, at, findings),
        Tree::Map(entries) => {
            let named: Vec<&str> = entries
                .iter()
                .map(|(key, _)| key.as_str())
                .filter(|key| SHAPES.contains(key))
                .collect();
            let [shape] = named.as_slice() else {
                let message = match named.as_slice() {
                    [] => "this is no expression of a canvas".to_owned(),
                    many => format!("an expression is one of `{}`", many.join("`, `")),
                };
                findings
                    .add(Diagnostic::error("bad_canvas", message).help(SUCH_AS), at);
                return None;
            };
            let shape = match *shape {
                "kind" => Some(Shape::Call(signature(entries, at, findings)?)),
                other => {
                    let value = value.get(other).unwrap_or(&Tree::Null);
                    compound(other, value, &at.key(other), depth, findings)
                }
            };
            let own: &[&str] = if named == ["kind"] { SIGNATURE } else { &named };
            let marks = marks(entries, own, at, depth, findings);
            Some(Canvas { shape: shape?, marks })
        }
        other => {
            findings.wrong_type_with("an expression of a canvas", other, SUCH_AS, at);
            None
        }
    }
}

/// `[name, arg, …]`.
fn short(items: &[Tree], at: &At<'_>, findings: &mut Findings) -> Option<Canvas> {
    let Some((Tree::String(kind), args)) = items.split_first() else {
        let message = "a call in its short form begins with the name of a kind";
        findings.add(Diagnostic::error("bad_canvas", message).help(SUCH_AS), at);
        return None;
    };
    let signature =
        Signature { kind: kind.clone(), args: args.to_vec(), ..Signature::default() };
    Some(Canvas::new(Shape::Call(signature)))
}

fn signature(
    entries: &[(String, Tree)],
    at: &At<'_>,
    findings: &mut Findings,
) -> Option<Signature> {
    let mut signature = Signature::default();
    for (key, value) in entries {
        let here = at.key(key);
        match key.as_str() {
            "kind" => signature.kind = findings.text(value, &here)?,
            "args" => signature.args = findings.list(value, &here).to_vec(),
            "kwargs" => signature.kwargs = findings.map(value, &here).to_vec(),
            "immutable" => {
                signature.immutable = findings.boolean(value, &here).unwrap_or(false);
            }
            "whole" => {
                signature.whole = findings.boolean(value, &here).unwrap_or(false);
            }
            "options" => {
                options(value, &here, findings);
                signature.options = findings.map(value, &here).to_vec();
            }
            _ => {}
        }
    }
    Some(signature)
}

fn compound(
    shape: &str,
    value: &Tree,
    at: &At<'_>,
    depth: usize,
    findings: &mut Findings,
) -> Option<Shape> {
    Some(match shape {
        "chain" => Shape::Chain(list(value, at, depth, findings)),
        "group" => Shape::Group(list(value, at, depth, findings)),
        "chord" => {
            let (mut header, mut body) = (None, None);
            for (key, value) in findings.map(value, at) {
                let here = at.key(key);
                match key.as_str() {
                    "header" => header = Some(members(value, &here, depth, findings)),
                    "body" => body = read(value, &here, depth + 1, findings),
                    other => findings.unknown_key(other, &["header", "body"], at),
                }
            }
            if header.is_none() || value.get("body").is_none() {
                let message = "a chord has a `header:` and a `body:`";
                let help =
                    "write `{ header: [[add, 1, 2], [add, 3, 4]], body: [sum] }`";
                findings.add(Diagnostic::error("bad_canvas", message).help(help), at);
            }
            Shape::Chord { header: header?, body: Box::new(body?) }
        }
        name => {
            let keys: &[&str] = match name {
                "chunks" => &["kind", "items", "size"],
                _ => &["kind", "items"],
            };
            let (mut kind, mut items, mut size) = (None, None, None);
            for (key, value) in findings.map(value, at) {
                let here = at.key(key);
                match key.as_str() {
                    "kind" => kind = findings.text(value, &here),
                    "items" => items = Some(findings.list(value, &here)),
                    "size" if name == "chunks" => {
                        size = findings.count(value, 1, &here);
                    }
                    other => findings.unknown_key(other, keys, at),
                }
            }
            let missing = kind.is_none()
                || items.is_none()
                || (name == "chunks" && size.is_none());
            if missing {
                let message = format!("`{name}` needs `{}`", keys.join("`, `"));
                let help = match name {
                    "chunks" => {
                        "write `{ kind: add, items: [[1, 2], [3, 4]], size: 10 }`"
                    }
                    "starmap" => "write `{ kind: add, items: [[1, 2], [3, 4]] }`",
                    _ => "write `{ kind: sum, items: [[1, 2], [3, 4]] }`",
                };
                findings.add(Diagnostic::error("bad_canvas", message).help(help), at);
            }
            let (kind, items) = (kind?, items?);
            if name == "map" {
                return Some(Shape::Map { kind, items: items.to_vec() });
            }
            let at = at.key("items");
            let items: Vec<Vec<Tree>> = (0..)
                .zip(items)
                .map(|(n, item)| findings.list(item, &at.index(n)).to_vec())
                .collect();
            match size {
                Some(size) => Shape::Chunks { kind, items, size: size as usize },
                None if name == "chunks" => return None,
                None => Shape::Starmap { kind, items },
            }
        }
    })
}

/// The items of a chain or a group.
fn list(
    value: &Tree,
    at: &At<'_>,
    depth: usize,
    findings: &mut Findings,
) -> Vec<Canvas> {
    if let Tree::List(items) = value
        && let Some(Tree::String(name)) = items.first()
    {
        // Without the brackets around it, one call would be read as a list of items.
        let message =
            format!("`{}` is a call, and a list of calls is wanted", shown(name));
        let help = "put it into a list of its own: `[[add, 1, 2]]`";
        findings.add(Diagnostic::error("bad_canvas", message).help(help), at);
        return vec![];
    }
    let items = findings.list(value, at);
    let mut read_items = Vec::with_capacity(items.len());
    for (n, item) in items.iter().enumerate() {
        read_items.extend(read(item, &at.index(n), depth + 1, findings));
    }
    read_items
}

/// A header: a list of members, or one expression, which is one member; a group is its
/// members.
fn members(
    value: &Tree,
    at: &At<'_>,
    depth: usize,
    findings: &mut Findings,
) -> Vec<Canvas> {
    match value {
        Tree::Map(_) => read(value, at, depth + 1, findings).into_iter().collect(),
        other => list(other, at, depth, findings),
    }
}

fn marks(
    entries: &[(String, Tree)],
    own: &[&str],
    at: &At<'_>,
    depth: usize,
    findings: &mut Findings,
) -> Marks {
    let mut marks = Marks::default();
    for (key, value) in entries {
        let here = at.key(key);
        match key.as_str() {
            key if own.contains(&key) => {}
            "on_success" => marks.on_success = list(value, &here, depth, findings),
            "on_failure" => marks.on_failure = list(value, &here, depth, findings),
            "labels" => marks.labels = labels(value, &here, findings),
            "tolerate" => marks.tolerate = amount(value, 0, &here, findings),
            "siblings" => match value {
                Tree::String(text) if text == "finish" => {}
                Tree::String(text) if text == "cancel" => {
                    marks.siblings = Siblings::Cancel;
                }
                _ => {
                    let message = "`siblings` is `finish` or `cancel`";
                    let help = "write `cancel` to stop the other members when too many \
                                have failed, or remove it";
                    let found = Diagnostic::error("bad_value", message).help(help);
                    findings.add(found, &here);
                }
            },
            other => {
                let known: Vec<&str> = own.iter().chain(MARKS).copied().collect();
                unknown(other, &known, at, findings);
            }
        }
    }
    marks
}

/// Compiles a document that holds a canvas.
pub(super) fn compile(
    canvas: &Canvas,
    document: &Document,
    options: &CompileOptions<'_>,
    limit: usize,
    findings: &mut Findings,
) -> Option<Compiled> {
    let inputs = resolve_inputs(document, options.inputs, findings);
    check_settings(document, findings);
    Compiler::new(document, options, findings).check_kinds_of_defaults();
    let at = At::ROOT;
    for (n, value) in document.args.iter().enumerate() {
        check_argument(value, document, &at.key("args").index(n), findings);
    }
    for (name, value) in &document.kwargs {
        check_argument(value, document, &at.key("kwargs").key(name), findings);
    }
    let (whole, around) = (Whole::Canvas(canvas), Around::default());
    let place = Place::top();
    let plan = plan(&whole, around, &place, document, options, limit, findings)?;
    let steps = plan.len() as usize;
    Some(Compiled::of(document, plan, inputs, steps))
}

/// Lowers a canvas to a plan.
pub(super) fn plan(
    whole: &Whole<'_>,
    around: Around,
    place: &Place,
    document: &Document,
    options: &CompileOptions<'_>,
    limit: usize,
    findings: &mut Findings,
) -> Option<Plan> {
    let mut compiler = Compiler::new(document, options, findings);
    let mut builder = Builder::new(vec![Scope::Root]);
    let at = Path::default().key("canvas");
    let mut look = |called: &Called<'_>| {
        let kind = &called.signature.kind;
        if let Some((wrong, help)) = fault(kind) {
            let message = format!("the kind `{}` {wrong}", shown(kind));
            let found = Diagnostic::error("bad_name", message).help(help);
            compiler.findings.add_path(found, called.at.clone());
        }
        compiler.check_call(called);
        let here = At::base(called.at);
        // What a handler makes is data.
        if document.canvas.is_some() {
            let named = called.signature.kwargs.iter().map(|(_, value)| value);
            for value in called.signature.args.iter().chain(named) {
                check_argument(value, document, &here, compiler.findings);
            }
        }
        // What was built in code is looked at here for the first time.
        let written = Tree::Map(called.signature.options.clone());
        let task =
            super::tasks::options(&written, &here.key("options"), compiler.findings);
        let kind = Some(called.signature.kind.clone());
        let task = Task { name: "options".to_owned(), kind, ..task };
        let here = Place { at: called.at.clone(), ..Place::top() };
        compiler.keys_fit(&task, &here);
        (compiler.merged(&task, &called.signature.kind, place), task.title)
    };
    let incoming = (document.args.as_slice(), document.kwargs.as_slice());
    let lowered = lower(whole, around, incoming, &mut builder, &at, &mut look);
    for (fault, path) in lowered.faults {
        findings.add_path(described(fault), path);
    }
    let steps = builder.drafts.len();
    if steps > limit {
        findings.add_path(too_many_tasks(steps, limit), at.clone());
    }
    if findings.has_errors() {
        return None;
    }
    match build(builder, document, Some(lowered.value)) {
        Ok(plan) => Some(plan),
        Err(problems) => {
            for problem in problems {
                findings.add_path(from_problem(&problem), at.clone());
            }
            None
        }
    }
}

fn described(fault: Fault) -> Diagnostic {
    match fault {
        Fault::EmptyGroup => {
            let message = "a group without members is skipped here";
            Diagnostic::warning("empty_group", message)
                .help("remove it; what comes before is passed on to what follows")
        }
        Fault::Labels => {
            let message = format!(
                "a step has more than {MAX_LABELS} labels, or one of more than {MAX_LABEL} bytes"
            );
            Diagnostic::error("too_many_labels", message)
                .help("it has those of all expressions around it; remove some")
        }
        Fault::Depth => too_deep(),
        Fault::NoGroup => {
            let message = "`tolerate` and `siblings` belong to a group or a chord";
            let help = "remove it, or put the members into a group";
            Diagnostic::error("bad_canvas", message).help(help)
        }
    }
}

fn too_deep() -> Diagnostic {
    let message = format!("the canvas nests deeper than {MAX_DEPTH}");
    Diagnostic::error("too_deep", message)
        .help("write chains as one list instead of chains in chains")
}
