//! Lowering: from a canvas to the steps of a plan.
//!
//! Every call is one step, and every fan-out one more, which joins it: a barrier between
//! two groups costs as many edges as they have members, not their product. What flows is
//! named by step numbers, so that a step costs its own arguments and nothing of the canvas
//! around it.

use std::collections::{BTreeMap, HashSet};

use super::{Canvas, MAX_DEPTH, Marks, Shape, Siblings, Signature};
use crate::{
    plan::{Action, Amount, Call, Dynamic, Flow, Policy, Rule, StepNo},
    spec::{Builder, Guard, Path, Tree},
};

/// The most labels of a step: each step has those of all expressions around it.
pub(crate) const MAX_LABELS: usize = 32;
/// The longest name or value of a label, in bytes.
pub(crate) const MAX_LABEL: usize = 256;
/// An incoming argument of more bytes is a step of its own.
const INLINE_ARGUMENT: usize = 256;

/// What is passed on to an expression.
#[derive(Clone, Debug, Default)]
struct Incoming {
    args: Vec<Flow>,
    kwargs: Vec<(String, Flow)>,
    /// What must have succeeded before.
    after: Vec<StepNo>,
}

impl Incoming {
    /// The value of a step.
    fn of(step: StepNo) -> Self {
        Self { args: vec![Flow::Output(step)], after: vec![step], ..Self::default() }
    }

    /// Another value at the same place.
    fn with(&self, value: Flow) -> Self {
        Self { args: vec![value], kwargs: vec![], ..self.clone() }
    }
}

/// What a canvas has become.
pub(crate) struct Lowered {
    /// The value of the whole.
    pub(crate) value: Flow,
    /// What is wrong with it, and where.
    pub(crate) faults: Vec<(Fault, Path)>,
}

/// What may be wrong with a canvas however it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A group that means nothing.
    EmptyGroup,
    /// A step would have more than [`MAX_LABELS`], or longer ones than [`MAX_LABEL`].
    Labels,
    /// It nests deeper than [`MAX_DEPTH`].
    Depth,
    /// What only a group or a chord may have stands elsewhere.
    NoGroup,
}

/// A call as it is checked: its kind, how many arguments it gets, and the names of others.
pub(crate) struct Called<'c> {
    pub(crate) signature: &'c Signature,
    pub(crate) args: usize,
    pub(crate) kwargs: Vec<&'c str>,
    pub(crate) at: &'c Path,
}

/// What is lowered.
pub(crate) enum Whole<'c> {
    /// A canvas; its value is that of the whole.
    Canvas(&'c Canvas),
    /// Members of a group that is elsewhere; the value is the list of theirs.
    Members(&'c [Canvas]),
}

/// What stands around the whole.
#[derive(Debug, Default)]
pub(crate) struct Around {
    /// Labels of all steps.
    pub(crate) labels: BTreeMap<String, String>,
    /// Whether failures are judged there.
    pub(crate) contained: bool,
}

/// Adds the steps of a canvas to a plan under construction. `look` sees every call and
/// gives its policy and title.
pub(crate) fn lower(
    whole: &Whole<'_>,
    around: Around,
    (args, kwargs): (&[Tree], &[(String, Tree)]),
    builder: &mut Builder,
    at: &Path,
    look: &mut dyn FnMut(&Called<'_>) -> (Policy, Option<String>),
) -> Lowered {
    let mut lowering = Lowering {
        builder,
        look,
        faults: vec![],
        own: vec![],
        contained: u32::from(around.contained),
        called_back: vec![],
        labels: vec![around.labels],
        crowded: false,
    };
    let incoming = lowering.incoming(args, kwargs);
    let value = match whole {
        Whole::Canvas(canvas) => {
            Flow::Output(lowering.expression(canvas, &incoming, "", at))
        }
        Whole::Members(members) => {
            let mut ends = vec![];
            lowering.members(members, &incoming, "", at, &mut ends);
            Flow::List(ends)
        }
    };
    Lowered { value, faults: lowering.faults }
}

fn given(tree: &Tree) -> Flow {
    Flow::Given(Dynamic::new(tree.to_raw()))
}

struct Lowering<'l> {
    builder: &'l mut Builder,
    look: &'l mut dyn FnMut(&Called<'_>) -> (Policy, Option<String>),
    faults: Vec<(Fault, Path)>,
    /// The steps of the expressions that are being lowered, without those of callbacks.
    own: Vec<StepNo>,
    /// How many expressions around judge failures themselves.
    contained: u32,
    /// The steps of callbacks so far, from and up to; outer ones come after inner ones.
    called_back: Vec<(StepNo, StepNo)>,
    /// The labels of the expressions around.
    labels: Vec<BTreeMap<String, String>>,
    /// Whether labels are refused already: then no further ones are gathered.
    crowded: bool,
}

impl Lowering<'_> {
    /// The incoming value of the whole. What is large becomes a step, so that it is stored
    /// once and not with every call that gets it.
    fn incoming(&mut self, args: &[Tree], kwargs: &[(String, Tree)]) -> Incoming {
        let mut incoming = Incoming::default();
        let mut after = vec![];
        let mut flow =
            |lowering: &mut Self, name: &str, value: &Tree| match given(value) {
                Flow::Given(dynamic) if dynamic.raw().get().len() > INLINE_ARGUMENT => {
                    let value = Flow::Given(dynamic);
                    let step = lowering.pass(value, &Incoming::default(), name);
                    after.push(step);
                    Flow::Output(step)
                }
                small => small,
            };
        for (n, value) in (1..).zip(args) {
            let value = flow(self, &below("args", n), value);
            incoming.args.push(value);
        }
        for (n, (name, value)) in (1..).zip(kwargs) {
            let value = flow(self, &below("kwargs", n), value);
            incoming.kwargs.push((name.clone(), value));
        }
        incoming.after = after;
        incoming
    }

    fn fault(&mut self, fault: Fault, at: &Path) {
        self.faults.push((fault, at.clone()));
    }

    /// Lowers an expression with its callbacks; returns the step that has its value.
    fn expression(
        &mut self,
        canvas: &Canvas,
        incoming: &Incoming,
        name: &str,
        at: &Path,
    ) -> StepNo {
        let first = self.own.len();
        if self.labels.len() > MAX_DEPTH {
            self.fault(Fault::Depth, at);
            return self.pass(empty_list(), incoming, name);
        }
        let is_group = matches!(&canvas.shape, Shape::Group(_) | Shape::Chord { .. });
        for (key, is_set) in [
            ("tolerate", canvas.marks.tolerate.is_some()),
            ("siblings", canvas.marks.siblings != Siblings::default()),
        ] {
            if is_set && !is_group {
                self.fault(Fault::NoGroup, &at.key_name(key));
            }
        }
        self.labels.push(canvas.marks.labels.clone());
        let end = match &canvas.shape {
            Shape::Call(signature) => self.call(signature, incoming, name, at),
            Shape::Chain(items) => self.chain(items, incoming, name, &at.key("chain")),
            Shape::Group(members) => {
                let at = at.key("group");
                self.group(members, &canvas.marks, incoming, name, &at)
            }
            Shape::Chord { header, body } => {
                self.chord((header, body), &canvas.marks, incoming, name, at)
            }
            Shape::Map { kind, items } => {
                let items: Vec<_> =
                    items.iter().map(|item| vec![item.clone()]).collect();
                self.calls(kind, &items, incoming, name, &at.key("map"))
            }
            Shape::Starmap { kind, items } => {
                self.calls(kind, items, incoming, name, &at.key("starmap"))
            }
            Shape::Chunks { kind, items, size } => {
                let mut parts = vec![];
                for (n, part) in (1..).zip(items.chunks((*size).max(1))) {
                    let name = below(name, n);
                    parts.push(self.calls(
                        kind,
                        part,
                        incoming,
                        &name,
                        &at.key("chunks"),
                    ));
                }
                self.join(parts, (None, vec![]), incoming, name)
            }
        };
        self.callbacks(&canvas.marks, first, end, name, at);
        self.labels.pop();
        end
    }

    /// Callbacks are steps like others, and no part of the expression they belong to.
    fn callbacks(
        &mut self,
        marks: &Marks,
        first: usize,
        end: StepNo,
        name: &str,
        at: &Path,
    ) {
        let contained = std::mem::take(&mut self.contained);
        let begin = self.next();
        let succeeded = Incoming::of(end);
        let failed = match marks.on_failure.is_empty() {
            true => Incoming::default(),
            // One record for all handlers, once everything has ended.
            false => {
                let steps = self.own.split_off(first);
                let guard = self.guard(steps, Rule::DoneWithFailure);
                let action = pass_on(Flow::Failure(end));
                let name = join_names(name, "failure");
                // It stands for the scope where another one is around it.
                self.own.push(end);
                Incoming::of(self.add(name, None, action, guard, Policy::default()))
            }
        };
        let own = self.own.len();
        for (key, callbacks, incoming) in [
            ("on_success", &marks.on_success, succeeded),
            ("on_failure", &marks.on_failure, failed),
        ] {
            let at = at.key(key);
            let mut known = HashSet::new();
            for (n, callback) in callbacks.iter().enumerate() {
                // The same one twice is one.
                if !known.insert(serde_json::to_string(callback).unwrap_or_default()) {
                    continue;
                }
                let name = below(&join_names(name, key), n + 1);
                self.expression(callback, &incoming, &name, &at.index(n));
            }
        }
        self.contained = contained;
        self.own.truncate(own);
        if self.next() > begin {
            self.called_back.push((begin, self.next()));
        }
    }

    /// The number of the next step.
    fn next(&self) -> StepNo {
        StepNo::try_from(self.builder.drafts.len()).unwrap_or(StepNo::MAX)
    }

    /// The steps from a number on that are no callbacks, as ranges.
    fn without_callbacks(&self, from: StepNo) -> Vec<(StepNo, StepNo)> {
        let mut ranges = vec![];
        let mut upto = self.next();
        // Those of an inner expression come before those around it, so from the last back
        // every range that is not inside a later one is next.
        for (begin, end) in self.called_back.iter().rev().copied() {
            if end <= from {
                break;
            }
            if end <= upto {
                if end < upto {
                    ranges.push((end, upto));
                }
                upto = begin;
            }
        }
        if from < upto {
            ranges.push((from, upto));
        }
        ranges.reverse();
        ranges
    }

    fn call(
        &mut self,
        signature: &Signature,
        incoming: &Incoming,
        name: &str,
        at: &Path,
    ) -> StepNo {
        let mut call = Call::default();
        if !signature.immutable {
            call.args.extend(incoming.args.iter().cloned());
            call.kwargs.extend(incoming.kwargs.iter().cloned());
        }
        call.args.extend(signature.args.iter().map(given));
        for (name, value) in &signature.kwargs {
            // Incoming ones win.
            if call.kwargs.iter().all(|(known, _)| known != name) {
                call.kwargs.push((name.clone(), given(value)));
            }
        }
        call.whole = signature.whole;
        let called = Called {
            signature,
            args: call.args.len(),
            kwargs: call.kwargs.iter().map(|(name, _)| name.as_str()).collect(),
            at,
        };
        let (mut policy, title) = (self.look)(&called);
        let own = std::mem::take(&mut policy.labels);
        for labels in &self.labels {
            if !self.crowded {
                policy.labels.extend(labels.clone());
            }
        }
        policy.labels.extend(own);
        let long = |text: &String| text.len() > MAX_LABEL;
        if policy.labels.len() > MAX_LABELS
            || policy.labels.iter().any(|(name, value)| long(name) || long(value))
        {
            if !std::mem::replace(&mut self.crowded, true) {
                self.fault(Fault::Labels, at);
            }
            policy.labels.clear();
        }
        let kind = signature.kind.clone();
        let name = join_names(name, &kind);
        let action = Action::Run { kind, with: None, call: Some(Box::new(call)) };
        let guard = self.guard(incoming.after.clone(), Rule::AllSucceeded);
        self.add(name, title, action, guard, policy)
    }

    fn chain(
        &mut self,
        items: &[Canvas],
        incoming: &Incoming,
        name: &str,
        at: &Path,
    ) -> StepNo {
        let mut passed = incoming.clone();
        let mut last = None;
        for (n, item) in items.iter().enumerate() {
            if item.is_empty_group() && item.marks == Marks::default() {
                // At the beginning it is the header of a chord with what follows; later it
                // is written by mistake.
                match last.is_none() && incoming.args.is_empty() {
                    true => passed = passed.with(empty_list()),
                    false => self.fault(Fault::EmptyGroup, &at.index(n)),
                }
                continue;
            }
            let is_empty =
                matches!(&item.shape, Shape::Chain(inner) if inner.is_empty());
            if is_empty && item.marks == Marks::default() {
                continue;
            }
            let end = self.expression(item, &passed, &below(name, n + 1), &at.index(n));
            passed = Incoming::of(end);
            last = Some(end);
        }
        match last {
            Some(end) => end,
            // Nothing to run: what was passed on, or null.
            None => {
                let value = passed.args.first().cloned();
                let null = || Flow::Given(Dynamic::new(Tree::Null.to_raw()));
                self.pass(value.unwrap_or_else(null), &passed, name)
            }
        }
    }

    fn group(
        &mut self,
        members: &[Canvas],
        marks: &Marks,
        incoming: &Incoming,
        name: &str,
        at: &Path,
    ) -> StepNo {
        if members.is_empty() {
            return self.pass(empty_list(), incoming, name);
        }
        self.contained += u32::from(marks.tolerate.is_some());
        let (first, mut ends) = (self.next(), vec![]);
        self.members(members, incoming, name, at, &mut ends);
        self.contained -= u32::from(marks.tolerate.is_some());
        let cancel = match marks.siblings {
            Siblings::Cancel => self.without_callbacks(first),
            Siblings::Finish => vec![],
        };
        self.join(ends, (marks.tolerate, cancel), incoming, name)
    }

    /// The members of a group; those of a group among them are members too.
    fn members(
        &mut self,
        members: &[Canvas],
        incoming: &Incoming,
        name: &str,
        at: &Path,
        ends: &mut Vec<StepNo>,
    ) {
        for (n, member) in members.iter().enumerate() {
            let (name, at) = (below(name, n + 1), at.index(n));
            match &member.shape {
                Shape::Group(inner) if member.marks == Marks::default() => {
                    self.members(inner, incoming, &name, &at.key("group"), ends);
                }
                _ => ends.push(self.expression(member, incoming, &name, &at)),
            }
        }
    }

    fn chord(
        &mut self,
        (header, body): (&[Canvas], &Canvas),
        marks: &Marks,
        incoming: &Incoming,
        name: &str,
        at: &Path,
    ) -> StepNo {
        let at = at.key("chord");
        let passed = match header {
            [] => incoming.with(empty_list()),
            header => {
                let of_header = Marks {
                    tolerate: marks.tolerate,
                    siblings: marks.siblings,
                    ..Marks::default()
                };
                let name = join_names(name, "header");
                let at = at.key("header");
                Incoming::of(self.group(header, &of_header, incoming, &name, &at))
            }
        };
        self.expression(body, &passed, &join_names(name, "body"), &at.key("body"))
    }

    /// Calls of a kind side by side, which take nothing that is passed on.
    fn calls(
        &mut self,
        kind: &str,
        items: &[Vec<Tree>],
        incoming: &Incoming,
        name: &str,
        at: &Path,
    ) -> StepNo {
        if items.is_empty() {
            return self.pass(empty_list(), incoming, name);
        }
        let alone = Incoming { args: vec![], kwargs: vec![], ..incoming.clone() };
        let mut ends = vec![];
        for (n, args) in (1..).zip(items) {
            let signature = Signature {
                kind: kind.to_owned(),
                args: args.clone(),
                ..Signature::default()
            };
            ends.push(self.call(&signature, &alone, &below(name, n), at));
        }
        self.join(ends, (None, vec![]), incoming, name)
    }

    /// The step that has the list of a fan-out.
    fn join(
        &mut self,
        ends: Vec<StepNo>,
        (tolerate, cancel): (Option<Amount>, Vec<(StepNo, StepNo)>),
        incoming: &Incoming,
        name: &str,
    ) -> StepNo {
        if ends.is_empty() {
            return self.pass(empty_list(), incoming, name);
        }
        // What comes before is a need too: where that was skipped, so is the list, and where
        // only the members were, it is a list of nulls.
        let before = incoming.after.clone();
        let rule = if before.is_empty() { Rule::NoneFailed } else { Rule::Joined };
        let guard = self.guard([before, ends.clone()].concat(), rule);
        let action = Action::Pass { value: Flow::List(ends), tolerate, cancel };
        self.add(join_names(name, "join"), None, action, guard, Policy::default())
    }

    /// A step that has a value and runs nothing.
    fn pass(&mut self, value: Flow, incoming: &Incoming, name: &str) -> StepNo {
        let guard = self.guard(incoming.after.clone(), Rule::AllSucceeded);
        let action = pass_on(value);
        self.add(join_names(name, "pass"), None, action, guard, Policy::default())
    }

    fn guard(&self, after: Vec<StepNo>, rule: Rule) -> Guard {
        let name = |no: StepNo| self.builder.drafts[no as usize].step.name.clone();
        let needs = after.into_iter().map(name).collect();
        Guard { needs, rule, conditions: vec![] }
    }

    fn add(
        &mut self,
        name: String,
        title: Option<String>,
        action: Action,
        guard: Guard,
        policy: Policy,
    ) -> StepNo {
        let no = self.next();
        let contained = self.contained > 0;
        let policy = self.builder.policy(Policy { contained, ..policy });
        self.builder.add(name, title, action, guard, 0, policy);
        self.own.push(no);
        no
    }
}

fn pass_on(value: Flow) -> Action {
    Action::Pass { value, tolerate: None, cancel: vec![] }
}

fn empty_list() -> Flow {
    Flow::Given(Dynamic::new(Tree::List(vec![]).to_raw()))
}

/// The name of the `n`th part of an expression.
fn below(name: &str, n: usize) -> String {
    join_names(name, &n.to_string())
}

fn join_names(name: &str, part: &str) -> String {
    if name.is_empty() { part.to_owned() } else { format!("{name}.{part}") }
}
