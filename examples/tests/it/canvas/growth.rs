//! The cases of steps that become canvases, add to their group, or end their siblings.

#![expect(clippy::needless_pass_by_value, reason = "reads better where it is called")]

use serde_json::{Value, json};

use super::cases::{Case, Ends::Failed, alone, case, value};

fn chord(header: Value, body: Value) -> Value {
    json!({ "chord": { "header": header, "body": body } })
}

/// A step that becomes a canvas and passes on what it gets.
fn becomes(canvas: Value) -> Value {
    json!(["expand", canvas])
}

/// The same, and it gets nothing.
fn becomes_alone(canvas: Value) -> Value {
    alone("expand", json!([null, canvas]))
}

fn note(text: &str) -> Value {
    alone("note", json!([text]))
}

fn noting(mut canvas: Value, text: &str) -> Value {
    canvas["on_success"] = json!([note(text)]);
    canvas
}

fn four() -> Value {
    json!({ "group": [["add", 0], ["add", 1], ["add", 2], ["add", 3]] })
}

pub(super) fn replacements() -> Vec<Case> {
    let full = |canvas: Value| json!({ "kind": "expand", "args": [canvas] });
    let three = |at: usize| {
        let mut members =
            vec![json!(["id", 42]), json!(["id", 1337]), json!(["id", 31337])];
        members[at] = becomes_alone(members[at].clone());
        json!(members)
    };
    let all = json!([42, 1337, 31337]);
    let inner = json!({ "chain": [
        note("2 in B"), becomes_alone(note("3 in and out C")), note("4 out B"),
    ] });
    let replaced = |x: u32, y: u32| becomes_alone(json!(["add", x, y]));
    let nested = |header: Value, n: u32| json!({ "chain": [chord(header, json!(["add_to_all", n])), ["sum"]] });
    vec![
        case(
            "43",
            json!({ "chain": [
                ["add", 2, 2],
                { "chain": [["add", 4], becomes(json!(["add", 8])), ["add", 16], ["add", 32]] },
                four(),
            ] }),
            value(json!([64, 65, 66, 67])),
        ),
        case(
            "45",
            json!({ "chain": [["add", 2, 2], four(), ["add_to_all", 8]] }),
            value(json!([12, 13, 14, 15])),
        ),
        case(
            "45 with a named argument",
            json!({ "chain": [{ "kind": "add", "args": [2, 2], "kwargs": { "z": 1 } }, four(),
                ["add_to_all", 8]] }),
            value(json!([13, 14, 15, 16])),
        ),
        case(
            "46",
            json!({ "chain": [four(), ["add_to_all", 8]] }),
            value(json!([13, 14, 15, 16])),
        )
        .args(json!([4]))
        .kwargs(json!({ "z": 1 })),
        case(
            "64",
            chord(json!([["add", 2, 5]]), json!(["add_to_all", 9])),
            value(json!([16])),
        ),
        case(
            "64 as a chain",
            json!({ "chain": [{ "group": [["add", 2, 5]] }, ["add_to_all", 9]] }),
            value(json!([16])),
        ),
        case(
            "65 with a replacement",
            chord(json!([]), json!(["add_to_all", 9])),
            value(json!([])),
        ),
        case(
            "65 with a replacement, as a chain",
            json!({ "chain": [{ "group": [] }, ["add_to_all", 9]] }),
            value(json!([])),
        ),
        case(
            "67",
            chord(
                json!([
                    chord(json!([["add", 1, 2], ["add", 3, 4]]), json!(["add", [5]])),
                    chord(json!([["add", 6, 7]]), json!(["add", [10]])),
                ]),
                json!(["add_to_all", ["A"]]),
            ),
            value(json!([[3, 7, 5, "A"], [13, 10, "A"]])),
        ),
        case(
            "100",
            json!({ "chain": [
                ["id", 1],
                noting(full(noting(json!({ "chain": [["add", 1], ["mul", 10]] }), "inside")), "outside"),
                ["add", 5],
            ] }),
            value(json!(25)),
        )
        .notes(["inside", "outside"]),
        case("101 first", json!({ "chain": [becomes_alone(json!(["id", 4])), ["add", 1]] }), value(json!(5))),
        case(
            "101 last",
            json!({ "chain": [["id", 4], becomes(json!(["add", 1]))] }),
            value(json!(5)),
        ),
        case("102 first", json!({ "group": three(0) }), value(all.clone())),
        case("102 middle", json!({ "group": three(1) }), value(all.clone())),
        case("102 last", json!({ "group": three(2) }), value(all.clone())),
        case("103 first in a header", chord(three(0), json!(["id"])), value(all.clone())),
        case("103 middle in a header", chord(three(1), json!(["id"])), value(all.clone())),
        case("103 last in a header", chord(three(2), json!(["id"])), value(all.clone())),
        case(
            "103 the body",
            chord(json!([["id", 1], ["id", 2]]), becomes(json!(["sum"]))),
            value(json!(3)),
        ),
        case(
            "103 in the body, first, middle and last",
            chord(
                json!([["id", 1], ["id", 2]]),
                json!({ "chain": [
                    becomes(json!(["sum"])), becomes(json!(["add", 1])), becomes(json!(["mul", 2])),
                ] }),
            ),
            value(json!(8)),
        ),
        case(
            "104",
            json!({ "chain": [becomes_alone(json!({ "chain": [] })), ["id"]] }),
            Failed(&["1.expand: failed invalid_expansion", "2.id: upstream_failed"]),
        ),
        case(
            "104 a group",
            becomes_alone(json!({ "group": [] })),
            Failed(&["expand: failed invalid_expansion"]),
        ),
        case(
            "104 a kind that does not exist, or is called wrongly",
            json!({ "group": [
                becomes_alone(json!(["ad", 1])), becomes_alone(json!(["add", 1, 2, 3, 4])),
                becomes_alone(json!(7)),
            ] }),
            Failed(&[
                "1.expand: failed invalid_expansion",
                "2.expand: failed invalid_expansion",
                "3.expand: failed invalid_expansion",
            ]),
        ),
        case(
            "105",
            json!({ "chain": [note("1 in A"), becomes_alone(inner), note("5 out A")] }),
            value(json!("5 out A")),
        )
        .in_order(["1 in A", "2 in B", "3 in and out C", "4 out B", "5 out A"]),
        case(
            "106",
            chord(
                json!([
                    nested(json!([["add", 1, 2], replaced(3, 4)]), 5),
                    nested(json!([replaced(6, 7), ["add", 0, 0]]), 8),
                ]),
                json!(["add_to_all", 9]),
            ),
            value(json!([29, 38])),
        ),
        case(
            "a failure in what a step became is that of the step, and told once",
            json!({ "chain": [["id", 1], becomes(json!({ "chain": [["id"], ["fail"]] })), ["id"]],
                "on_failure": [["note"]] }),
            Failed(&[
                "2.expand: failed fail", "2.expand/1.id: succeeded", "2.expand/2.fail: failed fail",
                "3.id: upstream_failed",
            ]),
        )
        .notes([json!({
            "step": "2.expand/2.fail", "kind": "fail", "code": "fail", "message": "fail(1)",
            "attempts": 1,
            "failed": [{
                "step": "2.expand/2.fail", "kind": "fail", "code": "fail", "message": "fail(1)",
                "attempts": 1,
            }],
        })]),
        case(
            "a failure in what a member became is tolerated as that of the member",
            json!({ "group": [["id", 1], becomes_alone(json!(["fail"]))], "tolerate": 1 }),
            value(json!([1, { "error": {
                "step": "2.expand/fail", "kind": "fail", "code": "fail", "message": "fail()",
                "attempts": 1,
            } }])),
        ),
        case(
            "a skip in what a step became ends the chain with null",
            json!({ "chain": [["id", 1], becomes(json!({
                "kind": "id", "options": { "start_before": "2020-01-01T00:00:00Z" },
            })), ["id"]] }),
            value(Value::Null),
        ),
        case(
            "what a step becomes is retried as the step is",
            json!({ "kind": "expand", "args": [null, ["flaky", 5, 2]],
                "options": { "retry": { "max_retries": 2, "delay": "1ms" } } }),
            value(json!(5)),
        ),
        case(
            "an expression in what a step becomes is a text",
            becomes_alone(json!({ "chain": [["id", "$${{ secrets.x }}"], ["id"]] })),
            value(json!("${{ secrets.x }}")),
        ),
        case(
            "callbacks of what a step became fire, and nobody waits for them",
            json!({ "chain": [
                becomes_alone(json!({ "kind": "id", "args": [1], "on_success": [["fail"]] })),
                ["id"], ["note"],
            ] }),
            Failed(&[
                "1.expand: succeeded", "1.expand/on_success.1.fail: failed fail", "3.note: succeeded",
            ]),
        )
        .notes([1]),
    ]
}

pub(super) fn additions() -> Vec<Case> {
    let adds = |value: u32, members: Value| json!(["add_to_chord", value, members]);
    let three = json!([["add", 1, 4], ["add", 2, 4], ["add", 3, 4]]);
    vec![
        case(
            "86",
            chord(json!([adds(0, three.clone())]), json!(["id"])),
            value(json!([0, 5, 6, 7])),
        ),
        case(
            "86 a chord",
            chord(
                json!([adds(0, json!([chord(three, json!(["sum"]))]))]),
                json!(["id"]),
            ),
            value(json!([0, 18])),
        ),
        case(
            "86 members come after those that were there, in the order of who added them",
            chord(
                json!([
                    ["id", 1],
                    { "chain": [["slow", 2, 40], ["add_to_chord", [["slow", 5, 20]]]] },
                    adds(3, json!([["id", 6], ["id", 7]])),
                    ["id", 4],
                ]),
                json!(["id"]),
            ),
            value(json!([1, 2, 3, 4, 5, 6, 7])),
        ),
        case(
            "86 a member that was added adds, and one that became a canvas",
            json!({ "group": [
                adds(1, json!([adds(3, json!([["id", 4]]))])),
                becomes_alone(adds(2, json!([["id", 5]]))),
            ] }),
            value(json!([1, 2, 3, 4, 5])),
        ),
        case(
            "86 one that fails fails the group",
            chord(json!([adds(0, json!([["fail"], ["id", 1]]))]), json!(["id"])),
            Failed(&[
                "header.1.add_to_chord: succeeded",
                "header.1.add_to_chord/1.fail: failed fail",
                "header.join: upstream_failed",
            ]),
        ),
        case(
            "86 one that fails calls the error handlers of the group",
            json!({ "group": [["id", 1], adds(0, json!([["fail"]]))],
                "on_failure": [note("told")] }),
            Failed(&["2.add_to_chord/1.fail: failed fail"]),
        )
        .notes(["told"]),
        case(
            "86 one that fails is tolerated as the others are",
            json!({ "group": [["id", 1], adds(2, json!([["fail"], ["id", 3]]))], "tolerate": "25%" }),
            value(json!([1, 2, { "error": {
                "step": "2.add_to_chord/1.fail", "kind": "fail", "code": "fail",
                "message": "fail()", "attempts": 1,
            } }, 3])),
        ),
        case(
            "86 without a group",
            json!({ "chain": [adds(1, json!([["id", 2]])), ["id"]] }),
            Failed(&["1.add_to_chord: failed no_group"]),
        ),
    ]
}

pub(super) fn siblings() -> Vec<Case> {
    let cancelling = |members: Value| json!({ "group": members, "siblings": "cancel" });
    let long = || json!(["slow", 1, 60_000]);
    let later = json!({ "kind": "id", "args": [1], "options": { "delay": "1h" } });
    let soon = json!({ "chain": [["slow", 1, 20], ["fail"]] });
    vec![
        case(
            "siblings that run, wait or have not begun are cancelled",
            cancelling(json!([soon.clone(), { "chain": [long(), ["id"]] }, later])),
            Failed(&[
                "1.2.fail: failed fail",
                "2.1.slow: cancelled cancelled",
                "2.2.id: cancelled",
                "3.id: cancelled",
                "join: upstream_failed",
            ]),
        ),
        case(
            "siblings finish otherwise",
            json!({ "group": [["fail"], ["slow", 1, 20]], "siblings": "finish" }),
            Failed(&["2.slow: succeeded"]),
        ),
        case(
            "siblings are cancelled once more have failed than may",
            json!({ "chord": { "header": [soon, ["fail"], long()], "body": ["id"] },
                "siblings": "cancel", "tolerate": 1 }),
            Failed(&[
                "header.3.slow: cancelled cancelled",
                "header.join: failed members_failed",
                "body.id: upstream_failed",
            ]),
        ),
        case(
            "siblings are not cancelled while no more have failed than may",
            json!({ "group": [["fail"], ["slow", 1, 20]], "siblings": "cancel", "tolerate": 1 }),
            value(json!([{ "error": {
                "step": "1.fail", "kind": "fail", "code": "fail", "message": "fail()", "attempts": 1,
            } }, 1])),
        ),
        case(
            "handlers of members that failed are called, those of cancelled ones are not",
            {
                let told = |text: &str| json!([note(text)]);
                json!({
                    "group": [
                        { "chain": [["slow", 1, 20], ["fail"]], "on_failure": told("failed") },
                        { "kind": "slow", "args": [1, 60_000], "on_failure": told("cancelled"),
                            "on_success": told("cancelled too") },
                        { "kind": "id", "args": [1], "on_success": told("succeeded") },
                    ],
                    "siblings": "cancel", "on_failure": told("all"),
                })
            },
            Failed(&["2.slow: cancelled cancelled"]),
        )
        .notes(["all", "failed", "succeeded"]),
        case(
            "what siblings became is cancelled too",
            cancelling(json!([
                soon,
                becomes_alone(json!({ "chain": [long(), ["id"]] })),
                ["id", 3],
            ])),
            Failed(&[
                "2.expand: cancelled",
                "2.expand/1.slow: cancelled cancelled",
                "2.expand/2.id: cancelled",
                "3.id: succeeded",
            ]),
        ),
        case(
            "handlers inside what a member became are called",
            cancelling(json!([
                becomes_alone(json!({ "chain": [["id", 1], ["fail"]], "on_failure": [note("inner")] })),
                long(),
            ])),
            Failed(&["1.expand/2.fail: failed fail", "2.slow: cancelled cancelled"]),
        )
        .notes(["inner"]),
        case(
            "only the innermost group is ended by its members",
            json!({ "group": [cancelling(json!([soon, long()])), ["slow", 2, 60]] }),
            Failed(&["1.2.slow: cancelled cancelled", "2.slow: succeeded"]),
        ),
    ]
}
