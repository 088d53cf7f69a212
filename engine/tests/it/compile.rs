//! What the compiler makes of documents, seen on the plan.

use std::time::Duration;

use dandori::{
    plan::{Action, Plan, Policy, StartBefore},
    spec::{
        CompileOptions, Compiled, Diagnostic, Document, Format, Limits, Source, Task,
        Timeout, load,
    },
};

use crate::documents::kinds;

fn read(text: &str) -> Result<(Compiled, Vec<Diagnostic>), Vec<Diagnostic>> {
    let kinds = kinds();
    let options = CompileOptions { kinds: Some(&kinds), ..CompileOptions::default() };
    let source = Source::new(None, text, Format::Yaml);
    load(&source, &Limits::default(), &options)
        .map(|loaded| (loaded.compiled, loaded.warnings))
}

fn compiled(text: &str) -> Compiled {
    match read(text) {
        Ok((compiled, _)) => compiled,
        Err(found) => panic!("{found:#?}"),
    }
}

/// The findings of a document as (code, line), in order.
fn findings(text: &str) -> Vec<(String, u32)> {
    let found = match read(text) {
        Ok((_, warnings)) => warnings,
        Err(found) => found,
    };
    found.into_iter().map(|found| (found.code, found.line)).collect()
}

fn is(found: &[(String, u32)], expected: &[(&str, u32)]) {
    let found: Vec<(&str, u32)> =
        found.iter().map(|(code, line)| (code.as_str(), *line)).collect();
    assert_eq!(found, expected);
}

fn policy<'c>(compiled: &'c Compiled, step: &str) -> &'c Policy {
    let no = compiled.plan.find(step).expect("the step exists");
    compiled.plan.policy(no)
}

/// The policies of the body of a `for_each`, by the names of its steps.
fn body<'c>(compiled: &'c Compiled, step: &str, inner: &str) -> &'c Policy {
    let no = compiled.plan.find(step).expect("the step exists");
    let Action::ForEach(for_each) = &compiled.plan.step(no).action else {
        panic!("{step} is no `for_each`");
    };
    let plan = &for_each.body.0;
    plan.policy(plan.find(inner).expect("the step exists"))
}

#[test]
fn retries_are_not_inherited_by_a_task_that_starts_at_most_once() {
    let compiled = compiled(
        "
defaults: { retry: { max_retries: 3 }, timeout: 1m }
templates:
  guide: { tasks: { pay: { kind: noop, at_most_once: true }, look: { kind: noop } } }
tasks:
  pay: { kind: noop, at_most_once: true }
  look: { kind: noop }
  both: { use: guide, retry: { max_retries: 5 } }
",
    );
    assert_eq!(policy(&compiled, "pay").retry.max_retries, 0);
    assert_eq!(policy(&compiled, "pay").hard, Some(Duration::from_secs(60)));
    assert_eq!(policy(&compiled, "look").retry.max_retries, 3);
    assert_eq!(policy(&compiled, "both/pay").retry.max_retries, 0);
    assert_eq!(policy(&compiled, "both/look").retry.max_retries, 5);
}

#[test]
fn the_start_of_a_for_each_is_the_parents_alone() {
    let compiled = compiled(
        "
templates:
  guide: { tasks: { write: { kind: noop, delay: 2s, start_before: 1h } } }
tasks:
  each:
    for_each: [1, 2]
    kind: noop
    delay: 5s
    not_before: 2026-12-01T08:00:00Z
    start_before: 10m
  guides: { for_each: [1, 2], use: guide, delay: 5s }
",
    );
    let parent = policy(&compiled, "each");
    assert_eq!(parent.delay, Duration::from_secs(5));
    assert!(parent.not_before.is_some());
    assert!(matches!(parent.start_before, Some(StartBefore::Within(_))));
    let child = body(&compiled, "each", "");
    assert_eq!(child.delay, Duration::ZERO);
    assert_eq!(child.not_before, None);
    assert_eq!(child.start_before, None);
    // A task inside the template says for itself when it starts, for every item.
    assert_eq!(policy(&compiled, "guides").delay, Duration::from_secs(5));
    let inner = body(&compiled, "guides", "write");
    assert_eq!(inner.delay, Duration::from_secs(2));
    assert!(inner.start_before.is_some());
    assert_eq!(body(&compiled, "guides", "").delay, Duration::ZERO);
}

#[test]
fn the_allowance_of_a_for_each_is_not_that_of_an_item() {
    let compiled = compiled(
        "
templates:
  guide: { tasks: { write: { kind: noop } } }
tasks:
  each: { for_each: [1, 2], use: guide, allow_failure: true }
  plain: { for_each: [1, 2], kind: noop, allow_failure: true }
  once: { use: guide, allow_failure: true }
",
    );
    for name in ["each", "plain", "once"] {
        assert!(policy(&compiled, name).allow_failure, "{name}");
    }
    for name in ["each", "plain"] {
        let join = body(&compiled, name, "");
        assert!(!join.allow_failure && join.contained, "{name}");
    }
    assert!(body(&compiled, "each", "write").contained);
    assert!(policy(&compiled, "once/write").contained);
}

#[test]
fn a_name_in_braces_without_a_dollar_is_a_warning() {
    let found = findings(
        "
tasks:
  review:
    for_each: [a, b]
    kind: noop
    with: { output: 'Review of {{ item }}' }
  render:
    for_each: [a, b]
    kind: template.render
    with: { template: 'Review of {{ item }}', values: { item: '${{ item }}' } }
  other:
    kind: template.render
    with: { template: '{{ title }} {{ item }}', values: {} }
",
    );
    is(&found, &[("missing_dollar", 6)]);
}

#[test]
fn problems_of_the_graph_are_told_beside_those_of_expressions_and_kinds() {
    let found = findings(
        "
templates:
  guide:
    tasks:
      write: { kind: noop, needs: [serch] }
      search: { kind: noop }
tasks:
  a: { needs: [c], kind: noop }
  b: { needs: [a], kind: nop }
  c: { needs: [b], kind: noop, with: { output: '${{ inputs.nothing }}' } }
  d: { needs: [e, d], kind: noop }
  first: { use: guide }
  second: { use: guide }
",
    );
    is(
        &found,
        &[
            ("missing_need", 5),
            ("cycle", 8),
            ("unknown_kind", 9),
            ("unknown_name", 10),
            ("missing_need", 11),
            ("self_need", 11),
        ],
    );
}

#[test]
fn a_misspelt_need_is_not_reported_as_a_missing_one_too() {
    let found = findings(
        "
tasks:
  fetch: { kind: noop }
  report: { needs: [fetsh], kind: noop, with: { output: '${{ tasks.fetch.output }}' } }
",
    );
    is(&found, &[("missing_need", 4)]);
}

#[test]
fn files_are_read_only_where_a_parameter_is_nothing_else() {
    let found = findings(
        "
tasks:
  a:
    kind: noop
    with: { output: \"${{ file('a.md') | upper }}\" }
  b:
    for_each: \"${{ file('a.md') }}\"
    kind: noop
  c:
    kind: noop
    with: { output: '${{ file(inputs.name) }}' }
outputs:
  text: \"${{ file('a.md') }}\"
",
    );
    is(&found[..2], &[("bad_file", 5), ("bad_file", 7)]);
    assert!(found.iter().any(|found| *found == ("bad_file".to_owned(), 11)));
    assert!(found.iter().any(|found| *found == ("bad_file".to_owned(), 13)));
}

#[test]
fn members_that_do_not_exist_are_refused() {
    let text = |expression: &str| {
        format!(
            "
tasks:
  a: {{ kind: noop }}
  b:
    needs: [a]
    kind: noop
    with: {{ output: \"${{{{ {expression} }}}}\" }}
"
        )
    };
    for good in [
        "tasks.a.output.outputs",
        "tasks['a'].state",
        "tasks.a['error']",
        "needs.a.attempts",
        "task.title",
        "project.id",
        "worker.id",
        "tasks.a",
    ] {
        is(&findings(&text(good)), &[]);
    }
    for bad in [
        "tasks.a.outputs",
        "tasks['a'].result",
        "tasks.a['stat']",
        "needs.a.output2",
        "task.kind",
        "project.title",
        "worker.name",
    ] {
        is(&findings(&text(bad)), &[("unknown_name", 7)]);
    }
}

#[test]
fn a_program_is_held_to_the_same_ranges_as_a_document() {
    let good = || Task::new("a", "noop");
    let each = || good().for_each(&serde_json::json!([1]));
    let timeout = |soft: Option<u64>, hard: Option<u64>| {
        let mut task = good();
        task.treatment.timeout = Some(Timeout {
            soft: soft.map(Duration::from_secs),
            hard: hard.map(Duration::from_secs),
        });
        task
    };
    for (task, code) in [
        (Task { window: Some(0), ..each() }, "out_of_range"),
        (timeout(None, Some(0)), "out_of_range"),
        (timeout(Some(0), None), "out_of_range"),
        (timeout(Some(2), Some(1)), "soft_over_hard"),
        (Task::new("a/b", "noop"), "bad_name"),
        (Task::new("", "noop"), "bad_name"),
    ] {
        let document = Document::named("by hand").task(task);
        let found = document.compile(&CompileOptions::default()).unwrap_err();
        let codes: Vec<&str> = found.iter().map(|(found, _)| &*found.code).collect();
        assert_eq!(codes, [code], "{document:?}");
    }
    let mut document = Document::named("by hand").task(good());
    document.max_parallel = Some(0);
    assert!(document.compile(&CompileOptions::default()).is_err());
    document.max_parallel = Some(1);
    assert!(document.compile(&CompileOptions::default()).is_ok());
    let twice = document.task(good());
    let found = twice.compile(&CompileOptions::default()).unwrap_err();
    assert_eq!(found[0].0.code, "duplicate_task");
}

#[test]
fn a_plan_of_templates_as_deep_as_allowed_can_be_read_back() {
    let nested = |levels: usize| {
        let mut text =
            String::from("tasks: { a: { for_each: [1], use: t1 } }\ntemplates:\n");
        for level in 1..levels {
            let next = level + 1;
            text += &format!(
                "  t{level}: {{ tasks: {{ a: {{ for_each: [1, 2], use: t{next} }} }} }}\n"
            );
        }
        text + &format!("  t{levels}: {{ tasks: {{ a: {{ kind: noop }} }} }}\n")
    };
    let compiled = compiled(&nested(16));
    assert!(Plan::from_bytes(compiled.plan.bytes()).is_ok());
    is(&findings(&nested(17)), &[("too_deep", 3)]);
}

#[test]
fn editors_may_name_the_schema() {
    is(&findings("$schema: ./v1.json\ntasks: { a: { kind: noop } }"), &[]);
}
