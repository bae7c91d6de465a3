//! No name leaves its directory, different names stay different, and links of a tree stay in it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Component;

use proptest::prelude::*;

use super::*;

const BOTH: [Rules; 2] = [Rules::Unix, Rules::Windows];

fn windows(name: &[u8]) -> String {
    String::from_utf8(Rules::Windows.component(name).unwrap().as_bytes().to_vec()).unwrap()
}

fn path(rules: Rules, names: &[&str]) -> SafePath {
    names
        .iter()
        .fold(SafePath::root(rules), |path, name| path.join(&rules.component(name.as_bytes()).unwrap()).unwrap())
}

/// No directory is known.
fn nowhere(_: &SafePath) -> bool {
    false
}

#[test]
fn names_that_are_no_names_are_refused_everywhere() {
    for rules in BOTH {
        for (name, why) in [
            (&b""[..], BadName::Empty),
            (b".", BadName::Dots),
            (b"..", BadName::Dots),
            (b"/", BadName::Slash),
            (b"a/b", BadName::Slash),
            (b"/etc/passwd", BadName::Slash),
            (b"../x", BadName::Slash),
            (b"\0", BadName::Nul),
            (b"a\0.txt", BadName::Nul),
        ] {
            assert_eq!(rules.component(name), Err(why), "{}", name.escape_ascii());
        }
    }
}

#[test]
fn names_end_at_the_limit_of_each_system() {
    let name = |unit: &str, count: usize| unit.repeat(count).into_bytes();
    assert!(Rules::Unix.component(&name("x", 255)).is_ok());
    assert_eq!(Rules::Unix.component(&name("x", 256)), Err(BadName::TooLong(Rules::Unix)));
    assert!(Rules::Unix.component(&name("\u{e9}", 127)).is_ok());
    assert_eq!(Rules::Unix.component(&name("\u{e9}", 128)), Err(BadName::TooLong(Rules::Unix)));

    let too_long = Err(BadName::TooLong(Rules::Windows));
    for (unit, most) in [("x", 255), ("\u{e9}", 255), ("\u{20ac}", 255), ("\u{1f600}", 127), (":", 85)] {
        assert!(Rules::Windows.component(&name(unit, most)).is_ok(), "{unit}");
        assert_eq!(Rules::Windows.component(&name(unit, most + 1)), too_long, "{unit}");
    }
    assert_eq!(Rules::Windows.component(&vec![b'x'; 2 << 20]), too_long);
}

#[test]
fn unix_takes_any_bytes_as_they_are() {
    for name in [&b"a\\b"[..], b"C:", b"CON", b"x. ", b"\xff\xfe", b"\n", b"-rf", b"...", b"%41", b"\\\\?\\C:\\x", b" "]
    {
        assert_eq!(Rules::Unix.component(name).unwrap().as_bytes(), name);
    }
}

#[test]
fn what_windows_would_read_as_something_else_is_escaped() {
    for (foreign, here) in [
        ("plain.txt", "plain.txt"),
        ("caf\u{e9} \u{1f600}", "caf\u{e9} \u{1f600}"),
        ("a:b", "a%3Ab"),
        ("C:", "C%3A"),
        ("a::$DATA", "a%3A%3A$DATA"),
        ("\\\\?\\C:\\x", "%5C%5C%3F%5CC%3A%5Cx"),
        ("\\\\.\\PIPE", "%5C%5C.%5CPIPE"),
        ("..\\..\\x", "..%5C..%5Cx"),
        ("<>\"|?*", "%3C%3E%22%7C%3F%2A"),
        ("a\tb\u{1}\u{1f}", "a%09b%01%1F"),
        ("x.", "x%2E"),
        ("x..", "x.%2E"),
        ("x. ", "x.%20"),
        ("...", "..%2E"),
        (" ", "%20"),
        (" x", " x"),
        ("100%", "100%"),
        ("%4", "%4"),
        ("%zz", "%zz"),
        ("%41", "%2541"),
        ("%2f%2F", "%252f%252F"),
        ("%%41", "%%2541"),
    ] {
        assert_eq!(windows(foreign.as_bytes()), here, "{foreign:?}");
    }
    assert_eq!(windows(b"a\xff\xc3"), "a%FF%C3");
    assert_eq!(windows(b"\xed\xa0\x80"), "%ED%A0%80", "a lone surrogate is not UTF-8");
}

#[test]
fn devices_are_no_files_on_windows() {
    let devices = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", "CLOCK$"].map(String::from).into_iter();
    let digits = "0123456789\u{b9}\u{b2}\u{b3}".chars();
    let ports = digits.flat_map(|digit| [format!("COM{digit}"), format!("LPT{digit}")]);
    for device in devices.chain(ports) {
        let escaped = format!("%{:02X}{}", device.as_bytes()[0], &device[1..]);
        for extension in ["", ".txt", ".tar.gz", " .x", "  .x", "..x"] {
            assert_eq!(windows(format!("{device}{extension}").as_bytes()), format!("{escaped}{extension}"));
        }
        assert_eq!(windows(format!("{device}.").as_bytes()), format!("{escaped}%2E"));
        assert_eq!(windows(format!("{device} ").as_bytes()), format!("{escaped}%20"));
        let lower = device.to_lowercase();
        assert_eq!(windows(lower.as_bytes()), format!("%{:02X}{}", lower.as_bytes()[0], &lower[1..]));
        for harmless in [format!("{device}x"), format!("x{device}"), format!("_{device}.txt"), format!("a.{device}")] {
            assert_eq!(windows(harmless.as_bytes()), harmless);
        }
    }
    for harmless in ["COM", "COM10", "LPT", "COM\u{2074}", "CON$", "COMa"] {
        assert_eq!(windows(harmless.as_bytes()), harmless);
    }
}

#[test]
fn generated_short_names_are_escaped() {
    for (foreign, here) in [
        ("PROGRA~1", "PROGRA%7E1"),
        ("git~1", "git%7E1"),
        ("LONGNA~1.TXT", "LONGNA%7E1.TXT"),
        ("a~12.b", "a%7E12.b"),
        ("a~1~2", "a~1%7E2"),
        ("x~", "x~"),
        ("x~1.conf", "x~1.conf"),
        ("longername~1", "longername~1"),
        ("~1x", "~1x"),
    ] {
        assert_eq!(windows(foreign.as_bytes()), here);
    }
    assert_eq!(windows(b"\xff~1"), "%FF%7E1");
}

#[test]
fn paths_are_made_of_names() {
    for rules in BOTH {
        let path = path(rules, &["a", "b.txt"]);
        assert_eq!((path.to_string().as_str(), path.depth()), ("a/b.txt", 2));
        assert_eq!(path.components().collect::<Vec<_>>(), [b"a", &b"b.txt"[..]]);
        let root = SafePath::root(rules);
        assert_eq!((root.components().count(), root.depth(), root.to_string().as_str()), (0, 0, ""));
    }
    let target = Path::new("some").join("target");
    let native = Rules::native();
    assert_eq!(path(native, &["a", "b.txt"]).join_onto(&target), target.join("a").join("b.txt"));
    assert_eq!(SafePath::root(native).join_onto(&target), target);
}

#[test]
fn paths_end_at_their_limits() {
    let short = ["d"; DEPTH_MAX];
    for rules in BOTH {
        let deep = path(rules, &short);
        let name = rules.component(b"d").unwrap();
        assert_eq!(deep.join(&name), Err(BadPath::TooDeep));
        let at = rules.path_units_max();
        let name = |length: usize| rules.component(&vec![b'x'; length]).unwrap();
        let mut full = SafePath::root(rules);
        while at - full.bytes.len() > 200 {
            full = full.join(&name(150)).unwrap();
        }
        let rest = at - full.bytes.len() - 1;
        assert!(full.join(&name(rest)).is_ok());
        assert_eq!(full.join(&name(rest + 1)), Err(BadPath::TooLong(rules)));
    }
    let target = "t".repeat(4000);
    let fits = |length: usize| path(Rules::Unix, &[&"x".repeat(length)]).fits_below(Path::new(&target));
    assert_eq!((fits(89), fits(90)), (Ok(()), Err(BadPath::TooLong(Rules::Unix))));
}

#[test]
#[should_panic(expected = "one path has one set of rules")]
fn rules_do_not_mix() {
    let _ = SafePath::root(Rules::Windows).join(&Rules::Unix.component(b"C:\\x").unwrap());
}

#[test]
fn names_cannot_steer_a_terminal() {
    let name = Rules::Unix.component("a\x1b[2J\r\n\u{202e}\u{e9} '\"\\".as_bytes()).unwrap();
    assert_eq!(name.to_string(), "a\\u{1b}[2J\\r\\n\\u{202e}\u{e9} '\"\\");
    assert_eq!(Rules::Unix.component(b"\xff").unwrap().to_string(), "\\xff");
}

#[test]
fn links_that_stay_inside() {
    for rules in BOTH {
        let at = path(rules, &["a", "b", "link"]);
        for good in ["x", "./x", "x/y/", "..", "../..", "../../a/b", ".././../x", "../x/./y//z", "."] {
            assert!(link_is_inside(&at, good.as_bytes(), &nowhere), "{good} {rules:?}");
        }
        for bad in ["", "/", "/x", "//x", "../../..", "../../../x", "x/..", "../x/../y", "./../../../a", "a\0b"] {
            assert!(!link_is_inside(&at, bad.as_bytes(), &nowhere), "{bad:?} {rules:?}");
        }
        let is_x = |at: &SafePath| at.components().eq([b"a", b"b", b"x"].map(|name| name.as_slice()));
        for (target, inside) in
            [("x/../y", true), ("x/../../../x", true), ("x/../../../..", false), ("x/y/..", false), ("y/../x", false)]
        {
            assert_eq!(link_is_inside(&at, target.as_bytes(), &is_x), inside, "{target}");
        }
        let top = path(rules, &["link"]);
        assert!(link_is_inside(&top, b"x", &nowhere) && !link_is_inside(&top, b"..", &nowhere));
        assert!(!link_is_inside(&SafePath::root(rules), b"x", &nowhere), "its directory is not in the tree");
        assert!(!link_is_inside(&at, &b"x/".repeat(rules.path_units_max() / 2 + 1), &nowhere));
    }
    let at = |rules| path(rules, &["a", "link"]);
    for trap in [
        "C:\\x",
        "C:x",
        "C:/x",
        "\\x",
        "\\\\server\\share",
        "\\\\?\\C:\\x",
        "..\\..\\x",
        "x\\..\\..\\..",
        "x:y",
        "NUL",
        "x./y",
        ".. /x",
        "x/... /y",
        "a\tb",
        "*",
        "%41",
        "LONGNA~1",
    ] {
        assert!(link_is_inside(&at(Rules::Unix), trap.as_bytes(), &nowhere), "{trap}");
        assert!(!link_is_inside(&at(Rules::Windows), trap.as_bytes(), &nowhere), "{trap}");
    }
    assert!(
        link_is_inside(&at(Rules::Unix), b"\xff", &nowhere) && !link_is_inside(&at(Rules::Windows), b"\xff", &nowhere)
    );
}

/// How Win32 reads a path without `\\?\` in front: the components below the drive's root that it would open, or none
/// when it opens something else than a file there.
fn win32_splits(text: &str) -> Option<Vec<String>> {
    let below = text.strip_prefix("D:\\")?;
    let mut components = Vec::new();
    for part in below.split(['\\', '/']) {
        match part {
            "" | "." => continue,
            ".." => drop(components.pop()),
            _ if part.contains([':', '<', '>', '"', '|', '?', '*']) || part.contains(|c| c < ' ') => return None,
            _ => {
                let seen = part.trim_end_matches(['.', ' ']);
                let device = seen.split('.').next().unwrap().trim_end_matches(' ').to_uppercase();
                let port = device.strip_prefix("COM").or_else(|| device.strip_prefix("LPT"));
                let is_port =
                    port.is_some_and(|n| n.chars().count() == 1 && n.contains(|c| "0123456789¹²³".contains(c)));
                let named = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", "CLOCK$"].contains(&device.as_str());
                if seen.is_empty() || named || is_port {
                    return None;
                }
                components.push(seen.to_string());
            }
        }
    }
    Some(components)
}

/// Undoes every escape.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|two| two.iter().all(u8::is_ascii_hexdigit));
        match digits.filter(|_| first == b'%') {
            Some(two) => {
                out.push(u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap());
                rest = &after[2..];
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

/// Names out of all that is dangerous.
fn any_name() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![
            "CON", "nul", "COM1", "lpt\u{b3}", "..", ".", " ", "%", "%4", "41", "~", "1", ":", "\\", "/", "*", "C:",
            "$DATA", "x", "\u{e9}", "\u{1f600}", "\\\\?\\", "\t",
        ])
        .prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..3),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

/// A tree to walk: what each path of it is.
enum Node {
    Folder,
    Link(Vec<String>),
}

/// Whether the way along `path`, from a folder that is really there, leads above the root, as a kernel would go it.
fn escapes(tree: &BTreeMap<Vec<String>, Node>, from: &[String], path: &[String]) -> bool {
    let mut here = from.to_vec();
    let mut todo: Vec<String> = path.iter().rev().cloned().collect();
    let mut links = 0;
    while let Some(name) = todo.pop() {
        match name.as_str() {
            "" | "." => continue,
            ".." if here.is_empty() => return true,
            ".." => drop(here.pop()),
            _ => {
                here.push(name);
                match tree.get(&here) {
                    Some(Node::Folder) => {}
                    Some(Node::Link(target)) if links < 40 => {
                        links += 1;
                        here.pop();
                        todo.extend(target.iter().rev().cloned());
                    }
                    _ => return false,
                }
            }
        }
    }
    false
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_name_never_leaves_its_directory(names in prop::collection::vec(any_name(), 1..4)) {
        let join = |rules: Rules| {
            let safe = names.iter().filter_map(|name| rules.component(name).ok());
            safe.fold(SafePath::root(rules), |path, name| path.join(&name).unwrap())
        };
        for rules in BOTH {
            if rules == Rules::Unix && Rules::native() == Rules::Windows {
                continue;
            }
            let path = join(rules);
            let joined = path.join_onto(Path::new("/target/dir"));
            let below: Vec<Component<'_>> = joined.strip_prefix("/target/dir").unwrap().components().collect();
            prop_assert_eq!(below.len(), path.depth());
            for (component, name) in below.iter().zip(path.components()) {
                prop_assert!(matches!(component, Component::Normal(os) if os.as_encoded_bytes() == name));
            }
        }
        let path = join(Rules::Windows);
        let below: Vec<&str> = path.components().map(|name| std::str::from_utf8(name).unwrap()).collect();
        let split = win32_splits(&format!("D:\\target\\{}", below.join("\\")));
        let expected = std::iter::once("target").chain(below).map(String::from).collect();
        prop_assert_eq!(split, Some(expected));
    }

    #[test]
    fn different_names_stay_different(names in prop::collection::vec(any_name(), 2..8)) {
        for rules in BOTH {
            let mut seen: HashMap<SafeName, &[u8]> = HashMap::new();
            for name in &names {
                let Ok(safe) = rules.component(name) else { continue };
                if rules == Rules::Windows {
                    prop_assert_eq!(&unescape(safe.as_bytes()), name);
                }
                prop_assert_eq!(*seen.entry(safe).or_insert(name), name);
            }
        }
    }

    #[test]
    fn links_agree_with_a_naive_oracle(
        depth in 1_usize..5,
        segments in prop::collection::vec(prop::sample::select(vec!["..", ".", "", "a", "b"]), 0..7),
    ) {
        let target = segments.join("/");
        let mut heights = vec![depth as isize - 1];
        let mut dots_after_name = false;
        for segment in &segments {
            let step = match *segment { ".." => -1, "a" | "b" => 1, _ => 0 };
            dots_after_name |= step == -1 && heights.windows(2).any(|pair| pair[1] > pair[0]);
            heights.push(heights[heights.len() - 1] + step);
        }
        let absolute_or_empty = target.is_empty() || target.starts_with('/');
        let expected = !absolute_or_empty && !dots_after_name && heights.iter().all(|height| *height >= 0);
        for rules in BOTH {
            let at = path(rules, &vec!["d"; depth]);
            prop_assert_eq!(link_is_inside(&at, target.as_bytes(), &nowhere), expected);
        }
    }

    #[test]
    fn no_way_through_links_that_are_inside_leaves_the_tree(
        entries in prop::collection::vec(
            (
                prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4),
                prop::option::of(prop::collection::vec(prop::sample::select(vec!["..", "a", "b", "c"]), 1..5)),
            ),
            1..12,
        ),
    ) {
        let mut tree: BTreeMap<Vec<String>, Node> = BTreeMap::new();
        for (names, target) in &entries {
            let owned: Vec<String> = names.iter().map(ToString::to_string).collect();
            let folders: BTreeSet<Vec<String>> = (1..owned.len()).map(|n| owned[..n].to_vec()).collect();
            if tree.contains_key(&owned) || folders.iter().any(|at| matches!(tree.get(at), Some(Node::Link(_)))) {
                continue;
            }
            let node = match target {
                None => Node::Folder,
                Some(target) => {
                    let is_folder = |at: &SafePath| {
                        let names = at.components().map(|name| String::from_utf8_lossy(name).into_owned());
                        matches!(tree.get(&names.collect::<Vec<_>>()), Some(Node::Folder))
                    };
                    if !link_is_inside(&path(Rules::Unix, names), target.join("/").as_bytes(), &is_folder) {
                        continue;
                    }
                    Node::Link(target.iter().map(ToString::to_string).collect())
                }
            };
            for folder in folders {
                tree.entry(folder).or_insert(Node::Folder);
            }
            tree.insert(owned, node);
        }
        for at in tree.keys() {
            for name in ["a", "b", "c"] {
                let way = [at.as_slice(), &[name.to_string(), name.to_string()]].concat();
                prop_assert!(!escapes(&tree, &[], &way), "{:?}", way);
            }
        }
    }
}
