//! A statement as it is written, cut into its parts.

use std::ops::Range;

use sqlparser::tokenizer::{Location, Token, TokenWithSpan, Word};

use super::{Rows, TableName, Unprotected, form};

/// A statement's text and its tokens, without what follows the last semicolon.
pub struct Text<'a> {
    pub sql: &'a str,
    pub tokens: Vec<TokenWithSpan>,
    /// The byte at which each token begins.
    pub starts: Vec<usize>,
}

impl<'a> Text<'a> {
    pub fn new(sql: &'a str, tokens: Vec<TokenWithSpan>) -> Result<Text<'a>, Unprotected> {
        let starts = starts(sql, &tokens);
        let mut text = Text { sql, tokens, starts };
        for token in &text.tokens {
            match &token.token {
                Token::Placeholder(mark) if mark != "?" => return Err(form("a placeholder other than `?`")),
                // The parser cannot be trusted with what follows it.
                token if is_keyword(token, "DIV") => return Err(form("the operator DIV")),
                _ => {}
            }
        }
        let is_blank = |token: &Token| matches!(token, Token::Whitespace(_) | Token::EOF);
        let last = text.tokens.iter().rposition(|token| !is_blank(&token.token));
        if let Some(last) = last.filter(|last| text.tokens[*last].token == Token::SemiColon) {
            text.sql = &sql[..text.starts[last]];
            text.tokens.truncate(last);
            text.starts.truncate(last);
        }
        Ok(text)
    }

    /// Tokens that are no space, each with its depth in parentheses.
    pub fn solid(&self) -> impl Iterator<Item = (usize, &TokenWithSpan)> {
        let mut depth = 0_usize;
        self.tokens.iter().filter_map(move |token| {
            match token.token {
                Token::Whitespace(_) | Token::EOF => return None,
                Token::LParen => {
                    depth += 1;
                    return Some((depth - 1, token));
                }
                Token::RParen => depth = depth.saturating_sub(1),
                _ => {}
            }
            Some((depth, token))
        })
    }

    /// Where the first of these keywords stands outside of parentheses, or the end.
    pub fn tail(&self, keywords: &[&str]) -> usize {
        let mut depth = 0_usize;
        let mut is_qualified = false;
        for (token, start) in self.tokens.iter().map(|token| &token.token).zip(&self.starts) {
            match token {
                Token::Whitespace(_) | Token::EOF => continue,
                Token::LParen => depth += 1,
                Token::RParen => depth = depth.saturating_sub(1),
                // After a point it is a name.
                token if depth == 0 && !is_qualified && keywords.iter().any(|keyword| is_keyword(token, keyword)) => {
                    return *start;
                }
                _ => {}
            }
            is_qualified = *token == Token::Period;
        }
        self.sql.len()
    }

    /// The tokens that begin there.
    pub fn within(&self, part: &Range<usize>) -> Vec<TokenWithSpan> {
        let from = self.starts.partition_point(|start| *start < part.start);
        let to = self.starts.partition_point(|start| *start < part.end);
        self.tokens[from.min(to)..to].to_vec()
    }

    /// The others.
    pub fn without(&self, part: &Range<usize>) -> Vec<TokenWithSpan> {
        let rest = part.end..usize::MAX;
        [self.within(&(0..part.start)), self.within(&rest)].concat()
    }

    pub fn params_before(&self, offset: usize) -> usize {
        let before = &self.tokens[..self.starts.partition_point(|start| *start < offset)];
        let is_param = |token: &&TokenWithSpan| matches!(token.token, Token::Placeholder(_));
        before.iter().filter(is_param).count()
    }

    pub fn rows(&self, table: TableName, alias: Option<String>, tail: Range<usize>) -> Rows {
        let params_before = self.params_before(tail.start);
        Rows {
            table,
            alias,
            params_before,
            params: self.params_before(tail.end) - params_before,
            is_limited: tail.contains(&self.tail(&["LIMIT"])),
            tail: self.sql[tail].to_owned(),
        }
    }

    pub fn has(&self, keyword: &str) -> bool {
        self.tokens.iter().any(|token| is_keyword(&token.token, keyword))
    }

    /// The names before parentheses; of an `INSERT`, those of its values.
    pub fn called(&self, is_insert: bool) -> Result<Vec<String>, Unprotected> {
        let mut tokens = self.solid().map(|(_, token)| &token.token).peekable();
        if is_insert {
            while tokens
                .next_if(|token| !is_keyword(token, "VALUES") && !is_keyword(token, "VALUE"))
                .is_some()
            {}
        }
        let mut called = Vec::new();
        let mut is_qualified = false;
        while let Some(token) = tokens.next() {
            if let Token::Word(word) = token
                && tokens.peek().is_some_and(|next| **next == Token::LParen)
            {
                let name = word.value.replace("``", "`");
                if is_qualified {
                    return Err(Unprotected::Function { name });
                }
                called.push(name);
            }
            is_qualified = *token == Token::Period;
        }
        Ok(called)
    }
}

/// The byte at which each token begins: their places are told by line and character.
fn starts(sql: &str, tokens: &[TokenWithSpan]) -> Vec<usize> {
    let mut chars = sql.char_indices().peekable();
    let (mut line, mut column) = (1, 1);
    let mut start = |place: Location| {
        while (line, column) < (place.line, place.column)
            && let Some((_, passed)) = chars.next()
        {
            (line, column) = if passed == '\n' {
                (line + 1, 1)
            } else {
                (line, column + 1)
            };
        }
        chars.peek().map_or(sql.len(), |(at, _)| *at)
    };
    tokens.iter().map(|token| start(token.span.start)).collect()
}

pub fn is_keyword(token: &Token, keyword: &str) -> bool {
    matches!(token, Token::Word(Word { value, quote_style: None, .. }) if value.eq_ignore_ascii_case(keyword))
}
