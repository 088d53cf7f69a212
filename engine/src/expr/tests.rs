//! Expressions alone: values, texts, errors, and what they refer to.

use serde_json::{Value as Json, json};

use super::*;

fn names() -> Names {
    Names::default()
        .with_json("inputs", &json!({"n": 3, "list": [1, 2], "name": "段取り", "big": 9007199254740993_i64}))
        .with_json("tasks", &json!({"a": {"output": null}, "a-b": {"output": {"x": 1}}}))
}

fn rendered(value: &Json) -> Result<Json, String> {
    let dynamic = Dynamic::new(serde_json::value::to_raw_value(value).unwrap());
    let raw = render(&dynamic, &names()).map_err(|error| error.to_string())?;
    Ok(serde_json::from_str(raw.get()).unwrap())
}

#[test]
fn a_value_that_is_only_an_expression_keeps_its_type() {
    for (text, value) in [
        ("${{ inputs.n }}", json!(3)),
        ("${{ inputs.n + 1 }}", json!(4)),
        ("${{ inputs.list }}", json!([1, 2])),
        ("${{ inputs.n > 2 }}", json!(true)),
        ("${{ inputs.big }}", json!(9007199254740993_i64)),
        ("${{ tasks['a-b'].output.x }}", json!(1)),
        ("${{ {'k': [inputs.n]} }}", json!({"k": [3]})),
        ("${{ tasks.a.output }}", json!(null)),
    ] {
        assert_eq!(rendered(&json!(text)), Ok(value), "{text}");
    }
}

#[test]
fn inside_text_texts_stand_as_they_are_and_other_values_as_json() {
    assert_eq!(
        rendered(&json!({"t": "${{ inputs.name }}: ${{ inputs.list }} of $${{ n }}"})),
        Ok(json!({"t": "段取り: [1,2] of ${{ n }}"}))
    );
    assert_eq!(rendered(&json!("${{ '}}' }}!")), Ok(json!("}}!")));
}

#[test]
fn the_text_of_a_value_is_never_evaluated_again() {
    let names = Names::default().with_json("inputs", &json!({"evil": "${{ 1 + 1 }}"}));
    let dynamic =
        Dynamic::new(serde_json::value::to_raw_value("a ${{ inputs.evil }}").unwrap());
    assert_eq!(render(&dynamic, &names).unwrap().get(), "\"a ${{ 1 + 1 }}\"");
}

#[test]
fn undefined_is_an_error_and_null_passes_default() {
    assert_eq!(rendered(&json!("${{ tasks.a.output | default([]) }}")), Ok(json!([])));
    assert_eq!(rendered(&json!("${{ inputs.no | default(7) }}")), Ok(json!(7)));
    let error = rendered(&json!("${{ inputs.no }}")).unwrap_err();
    assert!(error.contains("undefined") && error.contains("default"), "{error}");
    assert!(rendered(&json!("${{ inputs.no.deeper }}")).is_err());
}

#[test]
fn work_without_end_is_stopped() {
    let error = rendered(&json!("${{ range(1000000) | list | length }}")).unwrap_err();
    assert!(error.starts_with("expression:"), "{error}");
    assert!(rendered(&json!("${{ 'x' * 999999999 }}")).is_err());
}

#[test]
fn a_condition_is_a_truth_value_and_nothing_else() {
    assert_eq!(condition("inputs.n == 3", &names()), Ok(true));
    assert_eq!(condition("inputs.n == 4 or false", &names()), Ok(false));
    assert!(condition("inputs.n", &names()).is_err());
    assert!(condition("inputs.name", &names()).is_err());
}

#[test]
fn two_evaluations_give_the_same() {
    for name in ["now()", "random()", "debug()", "lipsum()"] {
        assert!(rendered(&json!(format!("${{{{ {name} }}}}"))).is_err(), "{name}");
    }
}

#[test]
fn references_are_found_outside_of_quotes() {
    let found: Vec<(String, Option<String>)> =
        references("tasks.a.output + tasks['x y'].n + 'tasks.no' + inputs.z")
            .into_iter()
            .map(|found| (found.root.to_owned(), found.member))
            .collect();
    let own = |root: &str, member: &str| (root.to_owned(), Some(member.to_owned()));
    assert_eq!(found, [own("tasks", "a"), own("tasks", "x y"), own("inputs", "z")]);
}
