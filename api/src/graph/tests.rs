//! What holds for every drawing, whatever the graph.

use std::collections::BTreeSet;

use super::collapse::for_picture;
use super::place::lay_out;
use super::shape::Shape;
use super::{Format, Graph, GraphNode, label, render};

fn node(name: &str, kind: &str, state: Option<&str>) -> GraphNode {
    GraphNode {
        name: name.to_owned(),
        kind: kind.to_owned(),
        state: state.map(str::to_owned),
        ..GraphNode::default()
    }
}

fn plain(count: usize, edges: Vec<(usize, usize)>) -> Graph {
    let nodes = (0..count).map(|index| node(&format!("step{index}"), "noop", None));
    Graph { title: "test".to_owned(), nodes: nodes.collect(), edges }
}

fn diamond() -> Graph {
    let mut load = node("load", "sql", Some("running"));
    load.note = Some("attempt 2".to_owned());
    load.label = Some("在庫を反映".to_owned());
    Graph {
        title: "Nightly \"import\"".to_owned(),
        nodes: vec![
            node("fetch", "http", Some("succeeded")),
            node("clean", "python", Some("succeeded")),
            node("check", "shell", Some("failed")),
            load,
        ],
        // One edge twice: it is drawn once.
        edges: vec![(0, 1), (0, 2), (1, 3), (2, 3), (2, 3)],
    }
}

/// A small generator, so that a failure repeats.
struct Lcg(u64);

impl Lcg {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(self.0 >> 33).unwrap() % limit.max(1)
    }
}

fn random(seed: u64) -> Graph {
    let mut dice = Lcg(seed);
    let count = 1 + dice.below(60);
    let mut edges = Vec::new();
    for _ in 0..dice.below(count * 3) {
        let (a, b) = (dice.below(count), dice.below(count));
        // Numbers mixed, so that the order of the document is no topological one.
        if (a * 37) % 61 < (b * 37) % 61 {
            edges.push((a, b));
        }
    }
    plain(count, edges)
}

#[test]
fn formats_are_read_by_the_names_they_print() {
    for format in Format::ALL {
        assert_eq!(format.to_string().parse(), Ok(format));
    }
    let error = "png".parse::<Format>().unwrap_err();
    insta::assert_snapshot!(error, @r#"unknown format "png", expected one of svg, dot, mermaid, text"#);
}

#[test]
fn a_diamond_is_drawn_as_text() {
    insta::assert_snapshot!(render(&diamond(), Format::Text), @r#"
    Nightly "import" (4 steps)
    ✓ fetch [http] succeeded
    ├─ ✓ clean [python] succeeded
    └─ ✗ check [shell] failed
       └─ ► load [sql] 在庫を反映 · running · attempt 2 (after: clean, check)
    "#);
}

#[test]
fn a_diamond_is_drawn_as_dot() {
    insta::assert_snapshot!(render(&diamond(), Format::Dot), @r##"
    digraph dandori {
      rankdir=LR;
      graph [label="Nightly \"import\"", labelloc=t, fontname="sans-serif"];
      node [shape=box, style="rounded,filled", fillcolor=white, fontname="sans-serif"];
      n0 [label="✓ fetch\nhttp · succeeded", tooltip="fetch", color="#12692c", fillcolor="#edfaf0"];
      n1 [label="✓ clean\npython · succeeded", tooltip="clean", color="#12692c", fillcolor="#edfaf0"];
      n2 [label="✗ check\nshell · failed", tooltip="check", color="#b91c1c", fillcolor="#fef2f2"];
      n3 [label="► 在庫を反映\nload · sql · running · attempt 2", tooltip="load", color="#0757b8", fillcolor="#eaf3ff"];
      n0 -> n1;
      n0 -> n2;
      n1 -> n3;
      n2 -> n3;
    }
    "##);
}

#[test]
fn a_diamond_is_drawn_as_mermaid() {
    insta::assert_snapshot!(render(&diamond(), Format::Mermaid), @r#"
    ---
    title: "Nightly \"import\""
    ---
    flowchart LR
      n0["✓ fetch<br/>http · succeeded"]:::s_succeeded
      n1["✓ clean<br/>python · succeeded"]:::s_succeeded
      n2["✗ check<br/>shell · failed"]:::s_failed
      n3["► 在庫を反映<br/>load · sql · running · attempt 2"]:::s_running
      n0 --> n1
      n0 --> n2
      n1 --> n3
      n2 --> n3
      classDef s_failed fill:#fef2f2,stroke:#b91c1c,color:#b91c1c
      classDef s_running fill:#eaf3ff,stroke:#0757b8,color:#0757b8
      classDef s_succeeded fill:#edfaf0,stroke:#12692c,color:#12692c
    "#);
}

#[test]
fn a_diamond_is_drawn_as_svg() {
    insta::assert_snapshot!("diamond_svg", render(&diamond(), Format::Svg));
}

#[test]
fn a_text_tree_tells_sequences_branches_and_references_apart() {
    // 3 needs 1 and 2 and hangs under 2; when 1 comes, it has been written already.
    let edges = vec![(0, 2), (2, 3), (1, 3), (1, 4), (4, 5), (5, 6), (5, 7)];
    insta::assert_snapshot!(render(&plain(9, edges), Format::Text), @"
    test (9 steps)
    step0 [noop]
    ↓ step2 [noop]
    └─ step3 [noop] (after: step1, step2)
    step1 [noop]
    ├─ ↑ step3
    └─ step4 [noop]
       ↓ step5 [noop]
       ├─ step6 [noop]
       └─ step7 [noop]
    step8 [noop]
    ");
}

#[test]
fn an_empty_graph_and_a_single_step_are_drawn() {
    for format in Format::ALL {
        assert!(!render(&Graph::default(), format).is_empty());
        assert!(render(&plain(1, Vec::new()), format).contains("step0"));
    }
    assert!(render(&Graph::default(), Format::Svg).contains("no steps"));
}

#[test]
fn impossible_edges_and_cycles_do_not_stop_a_drawing() {
    let edges = vec![(0, 0), (0, 9), (9, 0), (0, 1), (1, 2), (2, 0), (2, 3)];
    for format in Format::ALL {
        let drawn = render(&plain(4, edges.clone()), format);
        for index in 0..4 {
            assert!(drawn.contains(&format!("step{index}")), "{format}: {drawn}");
        }
    }
}

#[test]
fn every_step_is_defined_exactly_once_in_the_text() {
    for seed in 0..300 {
        let graph = random(seed);
        let text = render(&graph, Format::Text);
        let mut defined: Vec<_> = text
            .lines()
            .skip(1)
            .map(|line| line.trim_start_matches(['│', '├', '└', '─', ' ', '↓']))
            .filter(|line| !line.starts_with('↑'))
            .filter_map(|line| line.split(' ').next())
            .collect();
        defined.sort_unstable();
        let mut names: Vec<_> = graph.nodes.iter().map(|node| &node.name).collect();
        names.sort_unstable();
        assert_eq!(defined, names, "seed {seed}:\n{text}");
    }
}

#[test]
fn boxes_do_not_overlap_and_lines_go_round_them() {
    for seed in 0..300 {
        let graph = random(seed);
        let shape = Shape::of(&graph);
        let widths = vec![100.0; graph.nodes.len()];
        let layout = lay_out(&shape, &widths, 46.0);
        for (index, a) in layout.boxes.iter().enumerate() {
            assert!(a.x >= 0.0 && a.y >= 0.0, "seed {seed}");
            assert!(a.y + a.height <= layout.height + 1.0, "seed {seed}");
            for b in &layout.boxes[..index] {
                let apart = a.x + a.width <= b.x
                    || b.x + b.width <= a.x
                    || a.y + a.height <= b.y
                    || b.y + b.height <= a.y;
                assert!(apart, "seed {seed}: {a:?} {b:?}");
            }
            for &(x, y, run) in layout.lines.iter().flat_map(|line| &line.bends) {
                let through = x < run
                    && x < a.x + a.width
                    && a.x < run
                    && a.y < y
                    && y < a.y + a.height;
                assert!(!through, "seed {seed}: a line runs through {a:?}");
            }
        }
        for line in &layout.lines {
            let mut x = line.start.0;
            for &(to, _, run) in &line.bends {
                assert!(x < to && to <= run, "seed {seed}: an edge runs backwards");
                x = run;
            }
        }
        let svg = render(&graph, Format::Svg);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "seed {seed}");
        assert_eq!(svg, render(&graph, Format::Svg), "seed {seed}");
    }
}

#[test]
fn hostile_names_are_escaped_in_every_format() {
    let name = "<script>alert(\"x\")</script>\u{0}\u{202e}\u{200f}\n`a`&lt;\\";
    let mut graph = plain(2, vec![(0, 1)]);
    graph.title = name.to_owned();
    for field in 0..2 {
        let node = &mut graph.nodes[field];
        node.name = name.to_owned();
        node.kind = name.to_owned();
        node.label = (field == 0).then(|| name.to_owned());
        node.state = Some(name.to_owned());
        node.group = Some(name.to_owned());
        node.note = Some(name.to_owned());
    }
    for format in Format::ALL {
        let drawn = render(&graph, format);
        assert!(!drawn.contains(['\u{0}', '\u{202e}', '\u{200f}']), "{format}");
    }
    let svg = render(&graph, Format::Svg);
    assert!(!svg.contains("<script") && !svg.contains("alert(\"x\")"));
    assert!(svg.contains("&lt;script&gt;alert(&quot;x&quot;)"));
    let dot = render(&graph, Format::Dot);
    assert!(dot.contains(r#"<script>alert(\"x\")</script> `a`&amp;lt;\\""#));
    // The title stands in quoted front matter, everything else in labels.
    let mermaid = render(&graph, Format::Mermaid);
    let labels = mermaid.split("flowchart").nth(1).unwrap();
    assert!(!labels.contains("<script") && !labels.contains('`'));
    assert!(labels.contains("#lt;script#gt;alert(#quot;x#quot;)"));
}

#[test]
fn a_chain_and_a_fan_of_a_hundred_thousand_are_drawn() {
    const COUNT: usize = 100_000;
    let chain = plain(COUNT, (1..COUNT).map(|index| (index - 1, index)).collect());
    let fan = plain(COUNT, (1..COUNT).map(|index| (0, index)).collect());
    for graph in [chain, fan] {
        for format in Format::ALL {
            let drawn = render(&graph, format);
            let most = match format {
                Format::Svg | Format::Mermaid => 100_000,
                Format::Dot | Format::Text => 120 * COUNT,
            };
            assert!(drawn.len() < most, "{format}: {} bytes", drawn.len());
            let whole = matches!(format, Format::Dot | Format::Text);
            assert_eq!(drawn.contains("step99999"), whole, "{format}");
            assert_eq!(drawn.contains("100000 steps, levels"), !whole, "{format}");
        }
    }
}

#[test]
fn the_largest_graphs_that_are_not_collapsed_are_laid_out() {
    let fan = plain(2_000, (1..2_000).map(|index| (0, index)).collect());
    let chain: Vec<_> = (1..300).map(|index| (index - 1, index)).collect();
    // Every step also needs the first: more long edges than there are points.
    let skips = (2..300).map(|index| (0, index));
    let ladder = plain(300, chain.into_iter().chain(skips).collect());
    for graph in [fan, ladder] {
        assert_eq!(for_picture(&graph).nodes.len(), graph.nodes.len());
        assert!(!render(&graph, Format::Svg).contains("NaN"));
    }
}

#[test]
fn a_comb_does_not_grow_with_its_depth_squared() {
    const COUNT: usize = 20_000;
    let spine = (2..COUNT).step_by(2).map(|index| (index - 2, index));
    let teeth = (1..COUNT).step_by(2).map(|index| (index - 1, index));
    let text = render(&plain(COUNT, spine.chain(teeth).collect()), Format::Text);
    assert!(text.len() < 150 * COUNT, "{} bytes", text.len());
}

#[test]
fn large_groups_become_one_box_with_their_progress() {
    let mut graph = plain(302, Vec::new());
    for index in 1..301 {
        graph.edges.extend([(0, index), (index, 301)]);
        graph.nodes[index].group = Some("各店舗".to_owned());
        let state = if index <= 12 { "succeeded" } else { "running" };
        graph.nodes[index].state = Some(state.to_owned());
    }
    let small = for_picture(&graph);
    assert_eq!(small.edges, [(0, 1), (1, 2)]);
    assert_eq!(small.nodes[1].name, "各店舗");
    assert_eq!(small.nodes[1].note.as_deref(), Some("12/300"));
    assert_eq!(small.nodes[1].state.as_deref(), Some("running"));
    assert_eq!(small.title, "test (302 steps, groups as one box each)");
}

#[test]
fn japanese_takes_two_columns_a_character_and_is_cut_by_columns() {
    assert_eq!(label::columns("受注データ"), 10);
    assert_eq!(label::columns("step①"), 6);
    assert_eq!(label::cut("受注データ", 10), "受注データ");
    assert_eq!(label::cut("受注データを取得", 9), "受注デ…");
    assert_eq!(label::cut("fetch-orders", 8), "fetch-…");
    assert!(label::pixels("受注データ", 13.0) >= 5.0 * 13.0);

    let name = "非常に長い名前を持つ工程の受注データ取得処理";
    let mut graph = plain(1, Vec::new());
    graph.nodes[0].name = name.to_owned();
    let svg = render(&graph, Format::Svg);
    assert!(svg.contains(&format!("<title>{name} · noop</title>")));
    assert!(svg.contains("非常に長い名前を持つ工程の受注…</text>"), "{svg}");
}

#[test]
fn identifiers_in_dot_and_mermaid_are_numbers() {
    let graph = diamond();
    for format in [Format::Dot, Format::Mermaid] {
        let drawn = render(&graph, format);
        let arrows: BTreeSet<_> = drawn
            .lines()
            .filter(|line| line.contains("->") || line.contains("-->"))
            .map(|line| line.replace("-->", "->").replace([' ', ';'], ""))
            .collect();
        let expected = ["n0->n1", "n0->n2", "n1->n3", "n2->n3"];
        assert_eq!(arrows, expected.map(str::to_owned).into(), "{format}");
    }
}
