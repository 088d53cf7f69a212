//! Documents of 1 MiB that were made to cost more than they weigh, and honest ones that
//! are large.
//!
//! Nothing here looks at a clock: a reader that does not bound its work fails these tests
//! by taking minutes or all memory, and one that does is finished in a few milliseconds.

use std::fmt::Write as _;

use dandori::spec::{CompileOptions, Diagnostic, Format, Limits, Loaded, Source, load};

/// The size of an attack.
const SIZE: usize = 1 << 20;

fn read(text: &str, format: Format) -> Result<Loaded, Vec<Diagnostic>> {
    let source = Source::new(None, text, format);
    load(&source, &Limits::server(), &CompileOptions::default())
}

/// Repeats a part until the text has the size of an attack.
fn repeated(part: &str) -> String {
    part.repeat(SIZE / part.len())
}

/// A document whose one task carries a value.
fn with(value: &str) -> String {
    format!("tasks:\n  a:\n    kind: noop\n    with:\n      output: {value}\n")
}

/// Each line holds ten uses of the line before.
fn laughs() -> String {
    let mut text = String::from("tasks:\n  a:\n    kind: noop\n    with:\n");
    let _ = writeln!(text, "      l0: &l0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]");
    for level in 1..10 {
        let uses = vec![format!("*l{}", level - 1); 10].join(", ");
        let _ = writeln!(text, "      l{level}: &l{level} [{uses}]");
    }
    // The budget grows with the text, so that the text has its full size.
    let _ = writeln!(text, "#{}", "x".repeat(SIZE - text.len() - 2));
    text
}

/// One value of half the size, used as often as is allowed.
fn large_value_used_often() -> String {
    let mut text = String::from("tasks:\n  a:\n    kind: noop\n    with:\n");
    let _ = writeln!(text, "      big: &big [{}]", "0,".repeat(SIZE / 4));
    let _ = writeln!(text, "      all: [{}]", vec!["*big"; 90].join(", "));
    text
}

/// Keys weigh too: a small mapping with long keys.
fn long_keys_used_often() -> String {
    let mut text = String::from("tasks:\n  a:\n    kind: noop\n    with:\n");
    let keys: Vec<String> =
        (0..200).map(|n| format!("k{n}{}: 1", "k".repeat(4_000))).collect();
    let _ = writeln!(text, "      big: &big {{ {} }}", keys.join(", "));
    let _ = writeln!(text, "      all: [{}]", vec!["*big"; 90].join(", "));
    text
}

fn many_anchors() -> String {
    let mut text =
        String::from("tasks:\n  a:\n    kind: noop\n    with:\n      output:\n");
    for number in 0..100_000 {
        let _ = writeln!(text, "      - &a{number} x");
    }
    text
}

/// Blocks that nest until the text is full; indentation makes that some 1,400 levels.
fn nested_blocks() -> String {
    let mut text = String::new();
    let mut level = 0;
    while text.len() < SIZE {
        let _ = writeln!(text, "{}k:", " ".repeat(level));
        level += 1;
    }
    text
}

fn merge_keys() -> String {
    let mut text = String::from("base: &base { kind: noop }\ntasks:\n");
    for number in 0.. {
        let _ = writeln!(text, "  t{number}: {{ <<: *base }}");
        if text.len() > SIZE {
            return text;
        }
    }
    text
}

/// Many faults in one document: each finding must be cheap.
fn many_faults(line: fn(usize) -> String) -> String {
    let mut text = String::from("tasks:\n");
    for number in 0.. {
        text += &line(number);
        if text.len() > SIZE {
            return text;
        }
    }
    text
}

/// Templates that use the next one ten times each.
fn templates_that_multiply() -> String {
    let mut text = String::from("templates:\n");
    for level in 0..12 {
        let _ = writeln!(text, "  t{level}:\n    tasks:");
        for task in 0..10 {
            let _ = match level {
                11 => writeln!(text, "      a{task}: {{ kind: noop }}"),
                _ => writeln!(text, "      a{task}: {{ use: t{} }}", level + 1),
            };
        }
    }
    text + "tasks: { a: { use: t0 } }\n"
}

/// Templates that use the next one, as many as fit.
fn templates_in_a_chain() -> String {
    let mut text = String::from("tasks: { a: { use: t0 } }\ntemplates:\n");
    for level in 0.. {
        let next = level + 1;
        let _ = writeln!(text, "  t{level}: {{ tasks: {{ a: {{ use: t{next} }} }} }}");
        if text.len() > SIZE {
            return text;
        }
    }
    text
}

/// The attacks, each with its name and its form.
pub(crate) fn attacks() -> Vec<(&'static str, Format, String)> {
    use Format::{Json, Yaml};
    vec![
        ("laughs", Yaml, laughs()),
        ("a large value used often", Yaml, large_value_used_often()),
        ("long keys used often", Yaml, long_keys_used_often()),
        ("100,000 anchors", Yaml, many_anchors()),
        ("nested blocks", Yaml, nested_blocks()),
        ("nested lists in brackets", Yaml, with(&repeated("["))),
        ("nested mappings in brackets", Yaml, with(&repeated("{a: "))),
        ("brackets with texts between", Yaml, with(&repeated("[a, "))),
        ("brackets in lines", Yaml, with(&repeated("[\n          "))),
        ("brackets that close", Yaml, with(&repeated("[]"))),
        ("merge keys", Yaml, merge_keys()),
        ("a line of [", Yaml, repeated("[")),
        ("a line of {", Yaml, repeated("{")),
        ("a line of }", Yaml, repeated("}")),
        ("a line of -", Yaml, repeated("- ")),
        ("a line of ?", Yaml, repeated("? ")),
        ("a line of :", Yaml, repeated(": ")),
        ("a line of double quotes", Yaml, repeated("\"")),
        ("a line of single quotes", Yaml, repeated("'")),
        ("a line of anchors", Yaml, repeated("&a ")),
        ("a line of uses", Yaml, repeated("*a ")),
        ("a line of tags", Yaml, repeated("!!")),
        ("a line of tags apart", Yaml, repeated("!!str ")),
        ("a line of pipes", Yaml, repeated("|")),
        ("a line of percent signs", Yaml, repeated("%")),
        ("a line of letters", Yaml, repeated("a")),
        ("a line of commas", Yaml, repeated("[,")),
        ("many documents", Yaml, repeated("---\n")),
        ("many comments", Yaml, repeated("#\n")),
        ("many tabs", Yaml, repeated("\t")),
        ("many spaces", Yaml, repeated(" ")),
        ("many lines", Yaml, repeated("\n")),
        ("many escapes", Yaml, format!("\"{}", repeated("\\x41"))),
        ("keys without values", Yaml, repeated("? a\n")),
        ("a list of small values", Yaml, repeated("- a\n")),
        ("a list in a line", Yaml, format!("[{}]", repeated("a,"))),
        ("json lists", Json, repeated("[")),
        ("json mappings", Json, repeated("{\"a\":")),
        ("json lists that close", Json, format!("[{}0]", repeated("[],"))),
        ("json numbers", Json, format!("[{}0]", repeated("1,"))),
        ("json digits", Json, repeated("9")),
        ("json digits in a value", Json, format!("{{\"tasks\":{}}}", repeated("9"))),
        ("json quotes", Json, repeated("\"")),
        ("json escapes", Json, format!("\"{}", repeated("\\u0041"))),
        ("json of one line", Json, format!("{{\"tasks\":[{}0]}}", repeated("{},"))),
        (
            "json keys that are the same",
            Json,
            format!("{{{}\"a\":0}}", repeated("\"a\":0,")),
        ),
        (
            "missing needs",
            Yaml,
            many_faults(|n| format!("  t{n}: {{kind: noop, needs: [x{n}]}}\n")),
        ),
        (
            "long missing needs",
            Yaml,
            many_faults(|n| {
                let name = "y".repeat(180);
                format!("  {name}{n}: {{kind: noop, needs: [x{name}{n}]}}\n")
            }),
        ),
        (
            "rings",
            Yaml,
            many_faults(|n| {
                format!(
                    "  a{n}: {{kind: noop, needs: [b{n}]}}\n  b{n}: {{kind: noop, needs: [a{n}]}}\n"
                )
            }),
        ),
        (
            "unknown keys",
            Yaml,
            many_faults(|n| format!("  t{n}: {{kind: noop, unheard_of_{n}: 1}}\n")),
        ),
        ("tasks of a wrong type", Yaml, many_faults(|n| format!("  t{n}: a\n"))),
        (
            "unknown names",
            Yaml,
            many_faults(|n| {
                format!(
                    "  t{n}: {{kind: noop, with: {{a: \"${{{{ tasks.x{n} }}}}\"}}}}\n"
                )
            }),
        ),
        (
            "tasks that are not upstream",
            Yaml,
            many_faults(|n| {
                format!(
                    "  t{n}: {{kind: noop, with: {{a: \"${{{{ tasks.t{} }}}}\"}}}}\n",
                    n + 1
                )
            }),
        ),
        ("expressions that open", Yaml, with(&format!("\"{}\"", repeated("${{ ")))),
        (
            "expressions in brackets",
            Yaml,
            with(&format!("\"${{{{ {} }}}}\"", repeated("("))),
        ),
        (
            "expressions that add",
            Yaml,
            with(&format!("\"${{{{ {}x }}}}\"", repeated("1+"))),
        ),
        (
            "expressions that negate",
            Yaml,
            with(&format!("\"${{{{ {}x }}}}\"", repeated("not "))),
        ),
        (
            "expressions with filters",
            Yaml,
            with(&format!("\"${{{{ x{} }}}}\"", repeated("|upper"))),
        ),
        (
            "expressions with members",
            Yaml,
            with(&format!("\"${{{{ x{} }}}}\"", repeated(".a"))),
        ),
        (
            "expressions with lists",
            Yaml,
            with(&format!("\"${{{{ {}x }}}}\"", repeated("[1,"))),
        ),
        ("templates that multiply", Yaml, templates_that_multiply()),
        ("templates in a chain", Yaml, templates_in_a_chain()),
        ("more tasks than a server takes", Yaml, many_faults(|n| format!("  {n}:\n"))),
    ]
}

#[test]
fn every_attack_is_refused_with_a_remedy() {
    for (name, format, text) in attacks() {
        let Err(found) = read(&text, format) else { panic!("{name} is accepted") };
        assert!(found.len() <= 101, "{name}: {} findings", found.len());
        let first = found.first().expect("a refusal has a reason");
        assert!(first.is_error() && first.help.is_some(), "{name}: {first}");
        let shown: usize = found.iter().map(|found| found.to_string().len()).sum();
        assert!(shown < 200_000, "{name}: {shown} bytes of findings");
    }
}

/// 100,000 tasks, each of which needs the one before.
fn many_tasks() -> String {
    let mut text = String::from("name: many tasks\ntasks:\n  t0: { kind: noop }\n");
    for number in 1..100_000 {
        let before = number - 1;
        let _ = writeln!(text, "  t{number}: {{ kind: noop, needs: [t{before}] }}");
    }
    text
}

/// 1,000,000 edges between two layers of 1,000 tasks.
fn many_edges() -> String {
    let mut text = String::from("name: many edges\ntasks:\n");
    let mut names = vec![];
    for number in 0..1_000 {
        let _ = writeln!(text, "  a{number}: {{ kind: noop }}");
        names.push(format!("a{number}"));
    }
    let names = names.join(", ");
    for number in 0..1_000 {
        let _ = writeln!(text, "  b{number}: {{ kind: noop, needs: [{names}] }}");
    }
    text
}

/// 30 MiB: 300 tasks with texts of 100 KiB, an expression at the end of each.
fn large_texts() -> String {
    let mut text = String::from("name: large texts\ntasks:\n  t0: { kind: noop }\n");
    let line =
        "          A line of a long prompt, as people write them into documents.\n";
    let body = line.repeat(100 * 1024 / line.len() + 1);
    for number in 1..=300 {
        let _ = write!(
            text,
            "  t{number}:\n    needs: [t0]\n    kind: noop\n    with:\n      output: |\n\
             {body}          ${{{{ tasks.t0.output }}}}\n"
        );
    }
    text
}

/// A chain in which every task uses the output of one far above.
fn far_uses() -> String {
    let mut text = String::from("name: far uses\ntasks:\n  t0: { kind: noop }\n");
    for number in 1..20_000 {
        let (before, far) = (number - 1, number / 2);
        let _ = writeln!(
            text,
            "  t{number}: {{ kind: noop, needs: [t{before}], \
             with: {{ output: \"${{{{ tasks.t{far}.output }}}}\" }} }}"
        );
    }
    text
}

/// Large documents that people may well send.
pub(crate) fn honest() -> Vec<(&'static str, Format, String)> {
    let json = |text: &str| {
        let mut json = String::from("{\"tasks\": {\"t0\": {\"kind\": \"noop\"}");
        for number in 1..100_000 {
            let before = number - 1;
            let _ = write!(
                json,
                ",\n\"t{number}\": {{\"kind\": \"noop\", \"needs\": [\"t{before}\"]{text}}}"
            );
        }
        json + "}}"
    };
    vec![
        ("honest: 100,000 tasks", Format::Yaml, many_tasks()),
        ("honest: 100,000 tasks in json", Format::Json, json("")),
        ("honest: 1,000,000 edges", Format::Yaml, many_edges()),
        ("honest: 30 MiB of texts", Format::Yaml, large_texts()),
        ("honest: 20,000 far uses", Format::Yaml, far_uses()),
    ]
}

#[test]
fn large_honest_documents_are_read() {
    for (name, format, text) in honest() {
        match read(&text, format) {
            Ok(loaded) => assert!(loaded.warnings.is_empty(), "{name}"),
            Err(found) => panic!("{name}: {}", found[0]),
        }
    }
}

/// Canvases in which something is said once and meant for many.
#[test]
fn a_canvas_costs_what_it_weighs() {
    let half = "x".repeat(SIZE / 2);
    let calls = |count: usize| vec![r#"["k"]"#; count].join(",");
    let group = |count: usize| format!(r#"{{"group":[{}]}}"#, calls(count));
    let labels: Vec<String> =
        (0..30_000).map(|n| format!(r#""l{n}":"v{n}""#)).collect();
    let long = format!(r#"{{"labels":{{"a":"{half}"}},"group":[{}]}}"#, calls(50_000));
    let many = labels.join(",");
    let nested = |mark: &str| {
        let open = format!(r#"{{{mark},"chain":["#).repeat(60);
        format!("{open}{}{}", calls(50_000), "]}".repeat(60))
    };
    let handlers = vec![r#"["k",1]"#; 100_000].join(",");
    for (name, text, accepted) in [
        (
            "a large argument for all",
            format!(r#"{{"args":["{half}"],"canvas":{}}}"#, group(60_000)),
            true,
        ),
        (
            "the same handler again and again",
            format!(r#"{{"canvas":{{"kind":"k","on_success":[{handlers}]}}}}"#),
            true,
        ),
        (
            "handlers around handlers",
            format!(r#"{{"canvas":{}}}"#, nested(r#""on_failure":[["k"]]"#)),
            true,
        ),
        (
            "many labels",
            format!(
                r#"{{"canvas":{{"labels":{{{many}}},"group":[{}]}}}}"#,
                calls(50_000)
            ),
            false,
        ),
        ("a long label", format!(r#"{{"canvas":{long}}}"#), false),
        ("a long kind", format!(r#"{{"canvas":{{"chain":[["{half}"]]}}}}"#), false),
        (
            "chains in chains",
            format!(
                r#"{{"canvas":{}{}}}"#,
                r#"{"chain":["#.repeat(62),
                "]}".repeat(62)
            ),
            true,
        ),
        (
            "chains in chains, too deep",
            format!(
                r#"{{"canvas":{}{}}}"#,
                r#"{"chain":["#.repeat(70_000),
                "]}".repeat(70_000)
            ),
            false,
        ),
    ] {
        match read(&text, Format::Json) {
            Ok(loaded) => {
                assert!(accepted, "{name} is accepted");
                let (weight, plan) = (text.len(), loaded.compiled.plan.bytes().len());
                assert!(plan < 40 * weight, "{name}: {plan} bytes from {weight}");
            }
            Err(found) => {
                let first = found.first().expect("a refusal has a reason");
                assert!(!accepted, "{name}: {first}");
                assert!(first.help.is_some(), "{name}: {first}");
            }
        }
    }
}
