//! The cases of failures, skips and refusals.

use serde_json::{Value, json};

use super::cases::{
    Case,
    Ends::{Failed, Refused},
    alone, case, ids, value,
};

pub(super) fn failures() -> Vec<Case> {
    let chord = |header: Value, body: Value| json!({ "chord": { "header": header, "body": body } });
    let told = |mut canvas: Value| {
        canvas["on_failure"] = json!([alone("note", json!(["told"]))]);
        canvas
    };
    let mut header: Vec<Value> = ids(0..24);
    header.extend(vec![json!(["fail"]); 42]);
    vec![
        case(
            "88",
            told(chord(json!([["fail"]]), json!(["id"]))),
            Failed(&[
                "header.1.fail: failed fail",
                "header.join: upstream_failed",
                "body.id: upstream_failed",
            ]),
        )
        .notes(["told"]),
        case(
            "88 the body",
            told(chord(json!([["id", 42]]), json!(["fail"]))),
            Failed(&["header.join: succeeded", "body.fail: failed fail"]),
        )
        .notes(["told"]),
        case(
            "89 a chain in the header",
            chord(json!([{ "chain": [["id", 1], ["fail"], ["id"]] }]), json!(["id"])),
            Failed(&["header.1.3.id: upstream_failed", "body.id: upstream_failed"]),
        ),
        case(
            "89 a chain as the body",
            chord(json!([["id", 1]]), json!({ "chain": [["id"], ["fail"], ["id"]] })),
            Failed(&["body.1.id: succeeded", "body.3.id: upstream_failed"]),
        ),
        case(
            "93",
            told(chord(json!(header), json!(["id"]))),
            Failed(&["body.id: upstream_failed"]),
        )
        .notes(["told"]),
        case(
            "95",
            chord(
                json!([["fail"]]),
                json!({ "chain": [{ "group": [["id"], ["id"]] }, chord(json!([["id"]]), json!(["id"]))] }),
            ),
            Failed(&[
                "body.1.1.id: upstream_failed",
                "body.1.2.id: upstream_failed",
                "body.2.header.1.id: upstream_failed",
                "body.2.body.id: upstream_failed",
            ]),
        ),
        case(
            "96",
            chord(
                json!([
                    { "chain": [["fail"], { "group": [
                        alone("id", json!([2])), alone("id", json!([3])),
                    ] }] },
                    ["id", 4],
                ]),
                json!(["id"]),
            ),
            Failed(&["header.2.id: succeeded", "body.id: upstream_failed"]),
        ),
        case(
            "97",
            chord(json!([["id", 3], ["fail"], ["id", 7]]), json!(["id"])),
            Failed(&[
                "header.1.id: succeeded",
                "header.2.fail: failed fail",
                "header.3.id: succeeded",
            ]),
        ),
        case(
            "98",
            json!({ "chain": [["add", 1, 1], ["fail"], { "group": [["add", 1], ["add", 1]] }] }),
            Failed(&["3.1.add: upstream_failed", "3.2.add: upstream_failed"]),
        ),
        case(
            "a nested chord whose header fails ends the outer one, and is told once",
            told(chord(
                json!([chord(json!([["fail"]]), json!(["id"])), ["id", 1]]),
                json!(["id"]),
            )),
            Failed(&["header.1.body.id: upstream_failed", "body.id: upstream_failed"]),
        )
        .notes(["told"]),
        case(
            "an error handler of what never ran is not called",
            json!({ "chain": [
                ["fail"], { "kind": "id", "on_failure": [["note"]] },
                { "chain": [["id"]], "on_failure": [alone("note", json!(["x"]))] },
            ] }),
            Failed(&["2.failure: skipped condition", "3.failure: skipped condition"]),
        ),
        case(
            "every scope around a failure is told once, and of all of it",
            json!({ "chain": [{ "group": [
                { "kind": "fail", "args": [1], "on_failure": [alone("note", json!(["inner"]))] },
                ["fail", 2],
            ] }], "on_failure": [{ "chain": [["note"], alone("note", json!(["outer"]))] }] }),
            Failed(&["1.1.fail: failed fail", "1.2.fail: failed fail"]),
        )
        .notes([
            "inner".to_owned(),
            "outer".to_owned(),
            {
                let failed = |n: u32| json!({
                    "step": format!("1.{n}.fail"), "kind": "fail", "code": "fail",
                    "message": format!("fail({n})"), "attempts": 1,
                });
                let mut record = failed(1);
                record["failed"] = json!([failed(1), failed(2)]);
                record.to_string()
            },
        ]),
        case(
            "what is tolerated calls no error handler",
            told(json!({ "group": [["id", 1], ["fail"]], "tolerate": "50%" })),
            value(json!([1, { "error": {
                "step": "2.fail", "kind": "fail", "code": "fail", "message": "fail()",
                "attempts": 1,
            } }])),
        ),
        case(
            "an error handler may be a canvas",
            {
                let handler = json!({ "chain": [
                    { "group": [alone("note", json!([1])), alone("note", json!([2]))] },
                    ["sum"], ["note"],
                ] });
                json!({ "group": [
                    { "kind": "fail", "on_failure": [handler.clone()] },
                    { "kind": "id", "args": [1], "on_failure": [handler] },
                ] })
            },
            Failed(&[
                "2.on_failure.1.1.join: skipped",
                "2.on_failure.1.3.note: skipped",
            ]),
        )
        .notes([1, 2, 3]),
        case(
            "a member that was skipped has null in its place",
            json!({ "chain": [["id", 1], { "group": [
                ["id"], { "kind": "id", "options": { "start_before": "2020-01-01T00:00:00Z" } },
            ] }] }),
            value(json!([1, null])),
        ),
        case(
            "112",
            json!({
                "kind": "flaky", "args": [5, 2], "on_success": [["note"]],
                "on_failure": [["note"]],
                "options": { "retry": { "max_retries": 2, "delay": "1ms" } },
            }),
            value(json!(5)),
        )
        .notes([5]),
        case(
            "an expression that names nothing is refused",
            json!({ "chain": [["id", "${{ inputs.x }}"]] }),
            Refused("unknown_name"),
        ),
        case(
            "an argument names no step",
            json!({ "chain": [["id", 1], ["add", "${{ tasks.x.output }}"]] }),
            Refused("unknown_task"),
        ),
        case("125", json!(["add", 1, 2, 3, 4]), Refused("bad_arguments")),
        case(
            "125 unknown",
            json!({ "kind": "add", "kwargs": { "q": 1 } }),
            Refused("bad_arguments"),
        ),
        case(
            "125 twice",
            json!({ "kind": "add", "args": [1], "kwargs": { "x": 1 } }),
            Refused("bad_arguments"),
        ),
        case(
            "118",
            json!({ "kind": "id", "args": [1], "options": {
                "timeout": { "soft": "2s", "hard": "1s" },
            } }),
            Refused("soft_over_hard"),
        ),
        case(
            "130",
            json!({ "chain": [["id", 1], ["ad", 2]] }),
            Refused("unknown_kind"),
        ),
        case(
            "132 chunks",
            json!({ "chunks": { "kind": "add", "size": 3, "items": [
                [0, 0], [1, 1], [2, 2], [3, 3], [4, 4], [5, 5], [6, 6],
            ] } }),
            value(json!([[0, 2, 4], [6, 8, 10], [12]])),
        ),
        case(
            "132 map",
            json!({ "map": { "kind": "sum", "items": [[1, 2], [3, 4]] } }),
            value(json!([3, 7])),
        ),
        case(
            "132 starmap",
            json!({ "starmap": { "kind": "add", "items": [[1, 2], [3, 4]] } }),
            value(json!([3, 7])),
        ),
        case(
            "132 with a failure",
            json!({ "map": { "kind": "mul", "items": [[1], [2]] } }),
            Failed(&["join: upstream_failed"]),
        ),
    ]
}
