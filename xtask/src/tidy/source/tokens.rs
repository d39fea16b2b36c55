//! Paths in token streams: what a macro is given and what it expands to is read without knowing its grammar.

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

use super::{WrittenPath, name_of};

/// A path found among tokens.
pub struct TokenPath {
    pub path: WrittenPath,
    pub line: usize,
    /// Whether `!` follows: a macro call.
    pub is_macro_call: bool,
}

/// Every path in `tokens`, groups and `{a, b}` import lists spelled out.
pub fn token_paths(tokens: &TokenStream) -> Vec<TokenPath> {
    let mut paths = Vec::new();
    scan(
        tokens.clone(),
        &WrittenPath {
            is_global: false,
            segments: Vec::new(),
        },
        &mut paths,
    );
    paths
}

/// Scans `tokens`; each path that starts an element of an import list continues `prefix`.
fn scan(tokens: TokenStream, prefix: &WrittenPath, paths: &mut Vec<TokenPath>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    let mut starts_element = true;
    while at < tokens.len() {
        let is_global = is_colons(&tokens[at..]);
        let start = if is_global { at + 2 } else { at };
        let Some((first, after)) = segment(&tokens, start) else {
            if let TokenTree::Group(group) = &tokens[at] {
                scan(
                    group.stream(),
                    &WrittenPath {
                        is_global: false,
                        segments: Vec::new(),
                    },
                    paths,
                );
            }
            starts_element = is_punct(&tokens[at], ',');
            at += 1;
            continue;
        };
        if is_member(&tokens[..at]) {
            (at, starts_element) = (after, false);
            continue;
        }
        let line = tokens[start].span().start().line;
        let mut path = match starts_element && !prefix.segments.is_empty() {
            true => prefix.clone(),
            false => WrittenPath {
                is_global,
                segments: Vec::new(),
            },
        };
        starts_element = false;
        if first != "self" || path.segments.is_empty() {
            path.segments.push(first);
        }
        at = after;
        while is_colons(&tokens[at..]) {
            if let Some((next, after)) = segment(&tokens, at + 2) {
                path.segments.push(next);
                at = after;
                continue;
            }
            match tokens.get(at + 2) {
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                    scan(group.stream(), &path, paths);
                    path.segments.clear();
                    at += 3;
                }
                // `::<T>`, `::*`, `::$part`: the path is known up to here.
                _ => at += 2,
            }
            break;
        }
        if !path.segments.is_empty() {
            let is_macro_call = tokens.get(at).is_some_and(|token| is_punct(token, '!'));
            paths.push(TokenPath {
                path,
                line,
                is_macro_call,
            });
        }
    }
}

/// The identifier at `at` (or `$crate`), and the place after it.
fn segment(tokens: &[TokenTree], at: usize) -> Option<(String, usize)> {
    match (tokens.get(at)?, tokens.get(at + 1)) {
        (TokenTree::Ident(ident), _) => Some((name_of(ident), at + 1)),
        (TokenTree::Punct(dollar), Some(TokenTree::Ident(ident))) if dollar.as_char() == '$' && ident == "crate" => {
            Some(("crate".to_string(), at + 2))
        }
        _ => None,
    }
}

/// Whether the name after `before` is a field or a method: `x.name`, but not `0..name`.
fn is_member(before: &[TokenTree]) -> bool {
    match before {
        [.., TokenTree::Punct(first), last] if first.as_char() == '.' && is_punct(last, '.') => false,
        [.., last] => is_punct(last, '.'),
        [] => false,
    }
}

fn is_punct(token: &TokenTree, char: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == char)
}

fn is_colons(tokens: &[TokenTree]) -> bool {
    match tokens {
        [TokenTree::Punct(first), TokenTree::Punct(second), ..] => {
            first.as_char() == ':' && first.spacing() == Spacing::Joint && second.as_char() == ':'
        }
        _ => false,
    }
}
