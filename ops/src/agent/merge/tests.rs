//! Claims on files with comments and odd formatting.

use serde_json::json;

use super::*;

fn yaml(text: &str, edits: &[Edit]) -> String {
    merge(Format::Yaml, text, edits).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn aider() -> Vec<Edit> {
    vec![
        Edit::new("model", "ollama_chat/x:1"),
        Edit::new("analytics", false),
        Edit::element("set-env", Fits::Prefix("OLLAMA_API_BASE=".into()), "OLLAMA_API_BASE=http://h:1"),
    ]
}

const ODD: &str = "\
# my settings
model:   \"gpt-4\"   # the best

dark-mode: yes
read:
- a.md   # odd
- b.md
set-env:
    # keys
    - A=b
    - OLLAMA_API_BASE=http://old
text: |
  model: not this
  # nor this
";

#[test]
fn a_users_settings_and_comments_survive_in_yaml() {
    insta::assert_snapshot!(yaml(ODD, &aider()));
}

#[test]
fn yaml_of_every_style_is_merged() {
    for text in [
        "",
        "# only a comment\n",
        "---\nset-env: [A=b, \"C=d\"] # c\n...\n",
        "{model: gpt, a: 1}\n",
        "a: 1",
        "set-env:\n",
        "a: 1\r\nmodel: x\r\n",
    ] {
        let merged = yaml(text, &aider());
        let value = parse(Format::Yaml, &merged).unwrap();
        assert_eq!(value["model"], "ollama_chat/x:1", "{merged}");
        assert!(value["set-env"].as_array().unwrap().contains(&json!("OLLAMA_API_BASE=http://h:1")), "{merged}");
        assert_eq!(text.contains('#'), merged.contains('#'), "{merged}");
        assert_eq!(yaml(&merged, &aider()), merged, "a second time nothing is left to do");
        let back = unmerge(Format::Yaml, &merged, text, &aider()).unwrap().unwrap_or_default();
        let null_or_empty = |value: Value| if is_empty(&value) { Value::Null } else { value };
        let (back, before) = (parse(Format::Yaml, &back).unwrap(), parse(Format::Yaml, text).unwrap());
        if text != "set-env:\n" {
            assert_eq!(null_or_empty(back), null_or_empty(before), "{text:?}");
        }
    }
}

#[test]
fn a_list_of_models_gets_one_more() {
    let edit = |context: u32| {
        let value = json!({"name": "ollama_chat/x:1", "edit_format": "diff", "extra_params": {"num_ctx": context}});
        [Edit::element("", Fits::Field("name".into(), "ollama_chat/x:1".into()), value)]
    };
    let before = "# mine\n- name: gpt-4   # paid\n  edit_format: whole\n";
    let merged = yaml(before, &edit(32768));
    insta::assert_snapshot!(merged);
    insta::assert_snapshot!(yaml(&merged, &edit(65536)));
    assert_eq!(unmerge(Format::Yaml, &merged, before, &edit(32768)).unwrap().as_deref(), Some(before));
    insta::assert_snapshot!(yaml("", &edit(1)));
}

#[test]
fn what_does_not_parse_is_refused() {
    for text in ["model: {a\n", "a: 1\na: 2\n", "a: 1\n b: 2\n", "a: 1\n---\nb: 2\n", "\tx: 1\n"] {
        assert!(matches!(merge(Format::Yaml, text, &aider()), Err(MergeError::Parse { .. })), "{text}");
    }
    for text in ["{\"a\": 1", "{a: 1}", "{\"a\": 1 \"b\": 2}", "{'a': 1}"] {
        assert!(matches!(merge(Format::Json, text, &aider()), Err(MergeError::Parse { .. })), "{text}");
    }
    assert!(matches!(merge(Format::Yaml, "set-env: text\n", &aider()), Err(MergeError::Shape(_))));
    assert!(matches!(merge(Format::Json, "[1]", &aider()), Err(MergeError::Shape(_))));
}

#[test]
fn json_keeps_comments_commas_and_indentation() {
    let text = "{\n\t// mine\n\t\"theme\": \"dark\", /* why */\n\t\"provider\": {\n\t\t\"other\": {\"a\": [1,2]}, // kept\n\t},\n}\n";
    let edits = [
        Edit::new("provider.ours", json!({"options": {"baseURL": "http://h:1/v1"}})),
        Edit::new("model", "ours/x"),
        Edit::element("list", Fits::Field("id".into(), "x".into()), json!({"id": "x", "n": 1})),
    ];
    let merged = merge(Format::Json, text, &edits).unwrap();
    insta::assert_snapshot!(merged);
    assert_eq!(merge(Format::Json, &merged, &edits).unwrap(), merged);
    let back = unmerge(Format::Json, &merged, text, &edits).unwrap().unwrap();
    assert_eq!(parse(Format::Json, &back).unwrap(), parse(Format::Json, text).unwrap());
    assert!(back.contains("// mine") && back.contains("/* why */") && back.contains("// kept"), "{back}");
}

#[test]
fn what_its_owner_changed_since_is_left_to_its_owner() {
    let merged = yaml("", &aider());
    let changed = merged.replace("ollama_chat/x:1", "mine");
    let back = unmerge(Format::Yaml, &changed, "", &aider()).unwrap().unwrap();
    assert_eq!(parse(Format::Yaml, &back).unwrap(), json!({"model": "mine"}));
    assert_eq!(unmerge(Format::Yaml, &merged, "", &aider()).unwrap(), None, "of what was all ours nothing is left");
}
