//! What each command says of itself.
#![allow(clippy::unwrap_used, clippy::panic)]

mod command;

use command::{succeed, workplace};

#[test]
fn help_has_examples() {
    let place = workplace();
    let commands = succeed(place.path(), &["--help"]);
    let commands = commands.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let names = commands.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    for command in names.filter(|name| !name.is_empty() && *name != "help").chain([""]) {
        let words: Vec<&str> = [command, "--help"].into_iter().filter(|word| !word.is_empty()).collect();
        let text = succeed(place.path(), &words);
        assert!(text.contains("Example"), "{command}");
        insta::assert_snapshot!(format!("help_{command}"), text);
    }
}
