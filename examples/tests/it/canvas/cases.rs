//! The cases: documents, and what they come to.

#![expect(clippy::needless_pass_by_value, reason = "reads better where it is called")]

use serde_json::{Value, json};

/// What a case must come to.
pub(super) enum Ends {
    /// With this value.
    Value(Value),
    /// Failed; the steps that say why, as `name: state code`.
    Failed(&'static [&'static str]),
    /// Never accepted: the code of the finding.
    Refused(&'static str),
}

use Ends::Failed;

pub(super) fn value(value: Value) -> Ends {
    Ends::Value(value)
}

pub(super) struct Case {
    /// The number in the catalogue of cases, and which of several.
    pub(super) number: &'static str,
    pub(super) document: Value,
    pub(super) ends: Ends,
    /// What was noted, sorted; or in the order of time.
    pub(super) notes: Vec<String>,
    pub(super) ordered: bool,
}

pub(super) fn case(number: &'static str, canvas: Value, ends: Ends) -> Case {
    Case {
        number,
        document: json!({ "canvas": canvas }),
        ends,
        notes: vec![],
        ordered: false,
    }
}

impl Case {
    pub(super) fn args(mut self, args: Value) -> Self {
        self.document["args"] = args;
        self
    }

    pub(super) fn kwargs(mut self, kwargs: Value) -> Self {
        self.document["kwargs"] = kwargs;
        self
    }

    pub(super) fn notes(
        mut self,
        notes: impl IntoIterator<Item = impl ToString>,
    ) -> Self {
        self.notes = notes.into_iter().map(|note| note.to_string()).collect();
        self.notes.sort();
        self
    }

    pub(super) fn in_order(
        mut self,
        notes: impl IntoIterator<Item = impl ToString>,
    ) -> Self {
        self.notes = notes.into_iter().map(|note| note.to_string()).collect();
        self.ordered = true;
        self
    }
}

/// A call that takes nothing that is passed on.
pub(super) fn alone(kind: &str, args: Value) -> Value {
    json!({ "kind": kind, "args": args, "immutable": true })
}

pub(super) fn ids(values: std::ops::Range<u32>) -> Vec<Value> {
    values.map(|n| json!(["id", n])).collect()
}

pub(super) fn chains() -> Vec<Case> {
    let with_note = |canvas: Value| {
        let mut canvas = canvas;
        canvas["on_success"] = json!([["note"]]);
        canvas
    };
    let noted = (0..42).map(|n| {
        let args = if n == 0 { json!([1337]) } else { json!([]) };
        with_note(json!({ "kind": "id", "args": args }))
    });
    let failing = json!([["add", 1, 2], ["fail"], ["add", 3, 4]]);
    let expired = json!({
        "kind": "id", "options": { "start_before": "2020-01-01T00:00:00Z" }
    });
    vec![
        case("1", json!({ "chain": [["add", 4, 4], ["add", 8], ["add", 16]] }), value(json!(32))),
        case("2", json!({ "chain": [["add", 4, 4], ["mul", 8], ["mul", 10]] }), value(json!(640))),
        case("3", json!({ "chain": [["add", 3, 4]] }), value(json!(7))),
        case("4", json!({ "chain": [{ "chain": [["id", 42]] }] }), value(json!(42))),
        case(
            "5",
            json!({ "chain": [["add", 2, 2], { "chain": [["add", 4], ["add", 8]] }] }),
            value(json!(16)),
        ),
        case("7", json!(["sub", 10]), value(json!(20))).args(json!([30])),
        case("8", json!({ "chain": [["add", 1], ["mul", 2]] }), value(json!(12))).args(json!([5])),
        case("9", json!({ "chain": [{ "chain": [["id"], ["id"]] }] }), value(json!(1)))
            .args(json!([1])),
        case("10", json!({ "chain": [["add"], ["add", 8], ["add", 10]] }), value(json!(20)))
            .kwargs(json!({ "x": 1, "y": 1 })),
        case(
            "11",
            json!({ "chain": [
                alone("add", json!([2, 2])), alone("add", json!([4, 4])),
                alone("add", json!([8, 8])),
            ] }),
            value(json!(16)),
        ),
        case("12", json!({ "chain": [] }), value(Value::Null)),
        case("13", json!({ "chain": [{ "chain": [] }, ["add", 1, 1]] }), value(json!(2))),
        case(
            "14",
            json!({ "chain": failing.clone() }),
            Failed(&["1.add: succeeded", "2.fail: failed fail", "3.add: upstream_failed"]),
        ),
        case("16", json!({ "chain": noted.collect::<Vec<_>>() }), value(json!(1337)))
            .notes(vec![1337; 42]),
        case(
            "17",
            json!({ "chain": failing, "on_failure": [["note"]] }),
            Failed(&["2.fail: failed fail", "3.add: upstream_failed"]),
        )
        .notes([json!({
            "step": "2.fail", "kind": "fail", "code": "fail", "message": "fail(3)", "attempts": 1,
            "failed": [{
                "step": "2.fail", "kind": "fail", "code": "fail", "message": "fail(3)",
                "attempts": 1,
            }],
        })]),
        case(
            "18",
            with_note(json!({ "chain": [["add", 1, 1], ["mul", 2]] })),
            value(json!(4)),
        )
        .notes([4]),
        case(
            "19",
            json!({ "chain": [
                with_note(json!({ "chain": [["id", "a"], ["add", "b"]] })), ["add", "c"],
            ] }),
            value(json!("abc")),
        )
        .notes(["ab"]),
        case("23", json!({ "chain": [["id", 1], expired, ["note"]] }), value(Value::Null)),
        case(
            "24",
            json!({ "chain": [
                { "kind": "fail", "options": { "retry": { "max_retries": 5 } } }, ["note"],
            ] }),
            Failed(&["1.fail: failed fail", "2.note: upstream_failed"]),
        ),
    ]
}

pub(super) fn groups() -> Vec<Case> {
    let member = |canvas: Value| json!({ "chain": [canvas], "on_failure": [alone("note", json!(["x"]))] });
    let members = (0..24).map(|n| member(json!(["id", n])));
    let members = members.chain((0..42).map(|_| member(json!(["fail"]))));
    let members: Vec<Value> = members.collect();
    vec![
        case("25", json!({ "group": [["add", 2, 2], ["add", 4, 4]] }), value(json!([4, 8]))),
        case(
            "26",
            json!({ "group": [["slow", 1, 60], ["slow", 2, 5], ["slow", 3, 20]] }),
            value(json!([1, 2, 3])),
        ),
        case("27", json!({ "group": ids(0..1000) }), value(json!((0..1000).collect::<Vec<_>>()))),
        case("29", json!({ "group": [{ "group": [["id", 42], ["id", 42]] }] }), value(json!([42, 42]))),
        case("30", json!({ "group": [] }), value(json!([]))),
        case("31", json!({ "group": [["add", 1], ["add", 2]] }), value(json!([11, 12])))
            .args(json!([10])),
        case("31 by name", json!({ "group": [["add", 1, 1], ["add", 2, 2]] }), value(json!([102, 104])))
            .kwargs(json!({ "z": 100 })),
        case(
            "32",
            json!({ "group": [["add", 1, 2], ["fail"]] }),
            Failed(&["1.add: succeeded", "2.fail: failed fail", "join: upstream_failed"]),
        ),
        case(
            "33",
            json!({ "group": [["add", 1, 1], ["fail"], ["add", 2, 2]], "tolerate": 1 }),
            value(json!([2, { "error": {
                "step": "2.fail", "kind": "fail", "code": "fail", "message": "fail()",
                "attempts": 1,
            } }, 4])),
        ),
        case(
            "33 beyond",
            json!({ "group": [["fail"], ["fail"], ["add", 2, 2]], "tolerate": 1 }),
            Failed(&["join: failed members_failed"]),
        ),
        case("34", json!({ "group": members.clone() }), Failed(&["join: upstream_failed"]))
            .notes(vec!["x"; 42]),
        case(
            "34 once",
            json!({ "group": [["fail"], ["fail"], ["id", 1]], "on_failure": [alone("note", json!(["once"]))] }),
            Failed(&["join: upstream_failed"]),
        )
        .notes(["once"]),
        case(
            "35",
            json!({ "group": [["id", 1], ["slow", 2, 20]], "on_success": [["note"]] }),
            value(json!([1, 2])),
        )
        .notes(["[1,2]"]),
        case(
            "36",
            json!({ "group": [
                ["id", 1], ["id", 2], { "chain": [["id", 5], { "group": [
                    alone("id", json!([3])), alone("id", json!([4])),
                ] }] },
            ] }),
            value(json!([1, 2, [3, 4]])),
        ),
        case(
            "37",
            json!({ "group": [
                { "chain": [["add", 1, 1], ["mul", 2]] }, { "chain": [["add", 2, 2], ["mul", 3]] },
            ] }),
            value(json!([4, 12])),
        ),
        case("40", json!({ "chain": [["id", 42], { "group": [["id"], ["id"]] }] }), value(json!([42, 42]))),
        case("41", json!({ "chain": [{ "group": [["id", 42], ["id", 42]] }] }), value(json!([42, 42]))),
    ]
}

pub(super) fn combinations() -> Vec<Case> {
    let noted = |from: u32, to: u32| {
        let calls: Vec<Value> = (from..to).map(|n| alone("note", json!([n]))).collect();
        json!({ "group": calls })
    };
    vec![
        case("44", json!({ "chain": [["id", 42], { "group": [["id"], ["id"]] }, ["id"]] }), value(json!([42, 42]))),
        case(
            "47",
            json!({ "chain": [
                alone("add", json!([1, 0])), { "group": [["add", 1], ["add", 1]] },
                { "group": [["sum"], ["sum"]] }, ["sum"],
            ] }),
            value(json!(8)),
        ),
        case(
            "48",
            json!({ "chain": [
                alone("add", json!([1, 0])), { "group": [["add", 1], ["add", 1]] }, ["sum"],
                ["add", 1], { "group": [["add", 1], ["add", 1]] }, ["sum"],
            ] }),
            value(json!(12)),
        ),
        case(
            "53",
            json!({ "chain": [
                noted(1, 4), noted(4, 7), noted(7, 8), noted(8, 9), alone("note", json!([9])),
                alone("note", json!(["done"])),
            ] }),
            value(json!("done")),
        )
        .notes(["1", "2", "3", "4", "5", "6", "7", "8", "9", "done"]),
        case(
            "55",
            json!({ "chain": [
                { "chain": [noted(1, 3), noted(3, 5)] },
                { "chain": [alone("note", json!(["a"])), alone("note", json!(["b"]))] },
            ] }),
            value(json!("b")),
        )
        .notes(["1", "2", "3", "4", "a", "b"]),
        case(
            "56",
            json!({ "chain": [{ "group": [["id", 1], ["id", 2]] }, { "group": [["sum"], ["sum"]] }] }),
            value(json!([3, 3])),
        ),
        case(
            "56 and a sum",
            json!({ "chain": [
                { "group": [["id", 1], ["id", 2]] }, { "group": [["sum"], ["sum"]] }, ["sum"],
            ] }),
            value(json!(6)),
        ),
        case("57", json!({ "chain": [["add", 1, 1], { "group": [] }, ["add", 5]] }), value(json!(7))),
        case(
            "57 at the end",
            json!({ "chain": [{ "group": [["id", 1], ["id", 2]] }, { "group": [] }] }),
            value(json!([1, 2])),
        ),
        case(
            "58",
            json!({ "chain": [["add", 2, 2], { "group": [["add", 1]] }, ["id"]] }),
            value(json!([5])),
        ),
    ]
}

pub(super) fn chords() -> Vec<Case> {
    let chord = |header: Value, body: Value| json!({ "chord": { "header": header, "body": body } });
    let two = json!([["add", 1, 2], ["add", 3, 4]]);
    let mut mixed = vec![json!(["id", 42])];
    mixed.push(json!({ "chain": (0..42).map(|n| if n == 0 { json!(["id", 42]) } else { json!(["id"]) }).collect::<Vec<_>>() }));
    mixed.push(json!({ "group": vec![json!(["id", 42]); 42] }));
    mixed.push(chord(json!([["id", 42]]), alone("id", json!([1337]))));
    let mut counted = vec![json!(42); 44];
    counted.push(json!(1337));
    vec![
        case(
            "61",
            chord(json!([["add", 2, 2], ["add", 4, 4]]), json!(["sum"])),
            value(json!(12)),
        ),
        case(
            "62",
            chord(json!(ids(0..10)), json!(["id"])),
            value(json!([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])),
        ),
        case(
            "63",
            chord(
                json!([["slow", 1, 60], ["slow", 2, 5], ["slow", 3, 20]]),
                json!(["id"]),
            ),
            value(json!([1, 2, 3])),
        ),
        case(
            "64 without a replacement",
            chord(json!([["add", 2, 5]]), json!(["id"])),
            value(json!([7])),
        ),
        case("65", chord(json!([]), json!(["id"])), value(json!([]))),
        case(
            "65 as a chain",
            json!({ "chain": [{ "group": [] }, ["id"]] }),
            value(json!([])),
        ),
        case(
            "65 immutable",
            chord(json!([]), alone("id", json!([7]))),
            value(json!(7)),
        ),
        case("66", chord(json!(ids(0..1000)), json!(["sum"])), value(json!(499_500))),
        case(
            "66 as a chain",
            json!({ "chain": [["id", 1], { "group": vec![json!(["id"]); 1000] }, ["sum"]] }),
            value(json!(1000)),
        ),
        case(
            "70",
            json!({ "group": [
                chord(json!([["id", 3], ["id", 7]]), json!(["sum"])),
                chord(json!([["id", 4], ["id", 6]]), json!(["sum"])),
            ] }),
            value(json!([10, 10])),
        ),
        case(
            "71",
            {
                let member = json!({ "chain": [
                    ["id", 1], chord(json!([["id"], ["id"]]), json!(["sum"])),
                ] });
                chord(
                    json!({ "group": [member.clone(), member] }),
                    alone("add", json!([2, 2])),
                )
            },
            value(json!(4)),
        ),
        case(
            "73",
            json!({ "chain": [chord(json!([["id"], ["id"]]), json!(["id"])), ["id"]] }),
            value(json!([1, 1])),
        )
        .args(json!([1])),
        case(
            "74",
            chord(json!([{ "group": [["id", 42], ["id", 42]] }]), json!(["id"])),
            value(json!([42, 42])),
        ),
        case(
            "75",
            chord(
                json!([{ "chain": [["id", 42], { "group": [["id"], ["id"]] }] }]),
                json!(["id"]),
            ),
            value(json!([[42, 42]])),
        ),
        case("76", chord(json!(mixed), json!(["id"])), value(json!(counted))),
        case(
            "78",
            chord(json!([["id", 1], { "group": ids(2..5) }, ["id", 5]]), json!(["id"])),
            value(json!([1, 2, 3, 4, 5])),
        ),
        case(
            "a chain as a header is one member",
            chord(json!({ "chain": [["add", 1, 1], ["add", 2]] }), json!(["id"])),
            value(json!([4])),
        ),
        case(
            "80",
            json!({ "chain": [chord(two.clone(), json!(["sum"])), ["add", 5]] }),
            value(json!(15)),
        ),
        case(
            "81 a chain",
            chord(two.clone(), json!({ "chain": [["sum"], ["add", 5], ["mul", 2]] })),
            value(json!(30)),
        ),
        case(
            "81 a group",
            chord(two.clone(), json!({ "group": [["sum"], ["id"]] })),
            value(json!([10, [3, 7]])),
        ),
        case(
            "81 a chord",
            chord(two, chord(json!([["sum"], ["sum"]]), json!(["sum"]))),
            value(json!(20)),
        ),
    ]
}
