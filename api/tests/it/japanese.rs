//! Names and texts in any script: in terminals, pictures and file names.

use crate::command::Place;

#[test]
fn japanese_names_look_right_everywhere() {
    let place = Place::new();
    place.write(
        "段取り.yaml",
        "name: 段取りの術
tasks:
  設計: { kind: noop, title: 画面を三つ描く, with: { output: 日本語の文 } }
  実装: { kind: file.write, needs: [設計], with: { path: '手引き/${{ task.name }}.md', text: '${{ tasks.設計.output }}' } }
",
    );
    let ended = place.run(&["run", "段取り.yaml"]).exits(0);
    assert!(ended.stderr.contains("✓ 設計"), "{}", ended.stderr);
    let text = std::fs::read_to_string(place.path().join("手引き/実装.md")).unwrap();
    assert_eq!(text, "日本語の文");
    let list = place.run(&["list"]).exits(0).stdout;
    let lines: Vec<&str> = list.lines().collect();
    // A Japanese character is two columns wide: the columns after the name line up.
    let column = |line: &str, word: &str| {
        let before = &line[..line.find(word).unwrap()];
        before.chars().map(|c| if c as u32 > 0x2e80 { 2 } else { 1 }).sum::<usize>()
    };
    assert_eq!(column(lines[0], "STATE"), column(lines[1], "succeeded"), "{list}");
    let show = place.run(&["show", "段取りの術"]).exits(0).stdout;
    assert!(show.contains("設計") && show.contains("実装"), "{show}");
    let svg = place.run(&["graph", "last", "--format", "svg"]).exits(0).stdout;
    assert!(svg.contains("画面を三つ描く"), "{svg}");
    let text = place.run(&["graph", "段取り.yaml"]).exits(0).stdout;
    assert!(text.contains("画面を三つ描く"), "{text}");
}
