//! What a statement would change, read with a SQL parser. What is not understood whole is refused: nothing runs plain
//! that might write.

mod text;

use std::ops::Range;

use sqlparser::{
    ast::{self, AssignmentTarget, Expr, FromTable, ObjectName, SetExpr, TableFactor, TableObject, TableWithJoins},
    dialect::MySqlDialect,
    keywords::Keyword,
    parser::Parser,
    tokenizer::{Token, Tokenizer},
};

use crate::{Value, value::quoted};

use text::{Text, is_keyword};

/// Why a statement is not run.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unprotected {
    #[error("it cannot be read: {problem}")]
    Unreadable { problem: String },
    #[error("{what} is not supported")]
    Form { what: &'static str },
    #[error("it names `{name}`, which is not a table of the connection's own database")]
    Elsewhere { name: String },
    #[error("it changes `{column}`, which is of the primary key")]
    Key { column: String },
    #[error("it calls the stored function `{name}`, which may change anything")]
    Function { name: String },
}

fn form(what: &'static str) -> Unprotected {
    Unprotected::Form { what }
}

/// A statement that is understood.
#[derive(Clone, PartialEq, Debug)]
pub struct Understood {
    pub statement: Statement,
    /// How many `?` there are.
    pub params: usize,
    /// The names that stand before a parenthesis, functions among them.
    pub called: Vec<String>,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Statement {
    /// Changes nothing.
    Read,
    /// `SELECT … FOR UPDATE` of one table.
    Lock {
        rows: Rows,
        query: Picking,
    },
    Update {
        rows: Rows,
        /// The columns that are set.
        columns: Vec<String>,
        query: Picking,
    },
    Delete(Rows),
    Insert {
        table: TableName,
        /// None for all columns of the table.
        columns: Option<Vec<String>>,
        rows: Vec<Vec<Cell>>,
        upsert: Option<Upsert>,
    },
}

/// A table as it is named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableName {
    pub schema: Option<String>,
    pub name: String,
}

/// The rows of one table that a statement is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rows {
    pub table: TableName,
    pub alias: Option<String>,
    /// From `WHERE` (or what stands instead) to the end, without a lock.
    pub tail: String,
    /// How many `?` stand before the tail, and how many in it.
    pub params_before: usize,
    pub params: usize,
    /// The tail has its own `LIMIT`.
    pub is_limited: bool,
}

impl Rows {
    /// All columns of these rows, locked; of many, `max` and one more.
    pub fn select(&self, max: usize) -> String {
        let alias = self.alias.as_ref().map(|alias| format!(" AS {}", quoted(alias)));
        let limit = if self.is_limited {
            String::new()
        } else {
            format!("\nLIMIT {}", max.saturating_add(1))
        };
        format!(
            "SELECT * FROM {}{} {}{limit}\nFOR UPDATE",
            quoted(&self.table.name),
            alias.unwrap_or_default(),
            self.tail
        )
    }
}

/// A `SELECT … FOR UPDATE` or an `UPDATE`, to be run over rows that were picked before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Picking {
    /// What stands before the condition.
    head: String,
    /// `ORDER BY …`, without a limit.
    order: String,
    /// How many `?` stand in the head, and which in the order.
    params_of_head: usize,
    params_of_order: Range<usize>,
}

impl Picking {
    /// The statement for the rows that fit `condition`, and its values.
    pub fn over(&self, condition: &str, keys: &[Value], params: &[Value]) -> (String, Vec<Value>) {
        let sql = format!("{}\nWHERE {condition}\n{}", self.head, self.order);
        let head = &params[..self.params_of_head];
        let order = &params[self.params_of_order.clone()];
        (sql, [head, keys, order].concat())
    }
}

/// What an `INSERT … ON DUPLICATE KEY UPDATE` of one row does when the row is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upsert {
    /// The columns that are set then.
    pub columns: Vec<String>,
    /// The `INSERT` alone, and how many `?` it has.
    pub insert: String,
    pub params: usize,
}

/// One value of an `INSERT`.
#[derive(Clone, PartialEq, Debug)]
pub enum Cell {
    /// The n-th `?`.
    Param(usize),
    Literal(Value),
    Default,
    /// Anything else.
    Expression,
}

/// Reads one statement.
///
/// # Errors
/// [`Unprotected`] names what is not supported.
pub fn understand(sql: &str) -> Result<Understood, Unprotected> {
    if ["/*!", "/*M!", "/*+"].iter().any(|mark| sql.contains(mark)) {
        return Err(form("a comment that the server executes"));
    }
    let dialect = MySqlDialect {};
    // Literals stay as they are written: parts of the statement are sent again.
    let tokens = Tokenizer::new(&dialect, sql)
        .with_unescape(false)
        .tokenize_with_location();
    let tokens = tokens.map_err(|error| Unprotected::Unreadable {
        problem: error.to_string(),
    })?;
    let text = Text::new(sql, tokens)?;
    let order = text.order_of_update()?;
    let parser = Parser::new(&dialect).with_tokens_with_locations(text.without(&order));
    let mut statements = { parser }.parse_statements().map_err(|error| Unprotected::Unreadable {
        problem: error.to_string(),
    })?;
    let statement = match (statements.pop(), statements.is_empty()) {
        (Some(statement), true) => statement,
        (None, _) => return Err(form("no statement")),
        (Some(_), false) => return Err(form("more than one statement at once")),
    };
    let params = text.params_before(usize::MAX);
    let statement = match statement {
        ast::Statement::Update {
            table,
            assignments,
            from,
            selection: _,
            returning,
            or,
            limit: _,
        } => {
            refuse(from.is_some() || !table.joins.is_empty(), "an UPDATE of several tables")?;
            refuse(returning.is_some(), "RETURNING")?;
            refuse(or.is_some(), "UPDATE OR")?;
            let (table, alias) = single(&table)?;
            let tail = text.tail(&["WHERE", "ORDER", "LIMIT"]);
            let columns: Result<Vec<String>, Unprotected> = assignments.iter().map(assigned).collect();
            Statement::Update {
                columns: columns?,
                query: text.picking(tail, order),
                rows: text.rows(table, alias, tail..text.sql.len()),
            }
        }
        ast::Statement::Delete(delete) => {
            let from = match &delete.from {
                FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from) => from,
            };
            let [from] = &from[..] else {
                return Err(form("a DELETE of several tables"));
            };
            let is_several = !delete.tables.is_empty() || delete.using.is_some() || !from.joins.is_empty();
            refuse(is_several, "a DELETE of several tables")?;
            refuse(delete.returning.is_some(), "RETURNING")?;
            let (table, alias) = single(from)?;
            let tail = text.tail(&["WHERE", "ORDER", "LIMIT"]);
            Statement::Delete(text.rows(table, alias, tail..text.sql.len()))
        }
        ast::Statement::Insert(insert) => text.insert(insert)?,
        ast::Statement::Query(query) => text.query(&query)?,
        other => return Err(other_statement(&other)),
    };
    Ok(Understood {
        params,
        called: text.called(matches!(statement, Statement::Insert { .. }))?,
        statement,
    })
}

fn refuse(is_so: bool, what: &'static str) -> Result<(), Unprotected> {
    if is_so { Err(form(what)) } else { Ok(()) }
}

/// What a statement is called that is none of the rows.
fn other_statement(statement: &ast::Statement) -> Unprotected {
    let sql = statement.to_string();
    let first = sql.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    form(match first.as_str() {
        "CREATE" | "ALTER" | "DROP" | "RENAME" => "a change of the schema, which commits at once,",
        "TRUNCATE" => "TRUNCATE, which commits at once,",
        "START" | "BEGIN" | "COMMIT" | "ROLLBACK" | "SAVEPOINT" | "RELEASE" => {
            "a statement that ends or parts the transaction"
        }
        "CALL" => "CALL of a procedure, which may change anything,",
        "SET" | "USE" => "a change of the session",
        "LOCK" | "UNLOCK" => "LOCK TABLES, which commits at once,",
        _ => "a statement other than SELECT, INSERT, UPDATE and DELETE",
    })
}

fn name(name: &ObjectName) -> Result<TableName, Unprotected> {
    let parts: Option<Vec<String>> = name
        .0
        .iter()
        .map(|part| part.as_ident().map(|ident| ident.value.replace("``", "`")))
        .collect();
    match parts.as_deref() {
        Some([name]) => Ok(TableName {
            schema: None,
            name: name.clone(),
        }),
        Some([schema, name]) => Ok(TableName {
            schema: Some(schema.clone()),
            name: name.clone(),
        }),
        _ => Err(form("a table that is named in another way")),
    }
}

/// One table by its name, and its alias.
fn single(table: &TableWithJoins) -> Result<(TableName, Option<String>), Unprotected> {
    refuse(!table.joins.is_empty(), "a join")?;
    let TableFactor::Table {
        name: table,
        alias,
        args,
        with_hints,
        version,
        with_ordinality,
        partitions,
        json_path,
        sample,
        index_hints,
    } = &table.relation
    else {
        return Err(form("a table other than one by its name"));
    };
    refuse(!index_hints.is_empty(), "an index hint")?;
    refuse(!partitions.is_empty(), "a choice of partitions")?;
    let is_odd = args.is_some() || !with_hints.is_empty() || version.is_some() || *with_ordinality;
    refuse(
        is_odd || json_path.is_some() || sample.is_some(),
        "a table other than one by its name",
    )?;
    let alias = match alias {
        Some(alias) if !alias.columns.is_empty() => return Err(form("an alias with columns")),
        Some(alias) => Some(alias.name.value.replace("``", "`")),
        None => None,
    };
    Ok((name(table)?, alias))
}

fn assigned(assignment: &ast::Assignment) -> Result<String, Unprotected> {
    let AssignmentTarget::ColumnName(name) = &assignment.target else {
        return Err(form("an assignment to several columns"));
    };
    let column = name.0.last().and_then(|part| part.as_ident());
    column
        .map(|ident| ident.value.replace("``", "`"))
        .ok_or(form("an assignment to what is no column"))
}

impl Text<'_> {
    fn query(&self, query: &ast::Query) -> Result<Statement, Unprotected> {
        refuse(self.has("INTO"), "SELECT … INTO")?;
        let is_lock = |depth: Option<usize>| {
            let mut tokens = self.solid().peekable();
            while let Some((at, token)) = tokens.next() {
                let is_update = tokens.peek().is_some_and(|(_, next)| is_keyword(&next.token, "UPDATE"));
                if is_keyword(&token.token, "FOR") && is_update && depth.is_none_or(|depth| at == depth) {
                    return true;
                }
            }
            false
        };
        if !is_lock(None) {
            return match &*query.body {
                SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                    Err(form("a statement that begins with WITH"))
                }
                _ => Ok(Statement::Read),
            };
        }
        refuse(!is_lock(Some(0)), "a subquery with FOR UPDATE")?;
        refuse(query.with.is_some(), "WITH before a FOR UPDATE")?;
        let SetExpr::Select(select) = &*query.body else {
            return Err(form("a FOR UPDATE of a UNION"));
        };
        let [from] = &select.from[..] else {
            return Err(form("a FOR UPDATE of several tables"));
        };
        let (table, alias) = single(from)?;
        let is_grouped = match &select.group_by {
            ast::GroupByExpr::All(_) => true,
            ast::GroupByExpr::Expressions(by, with) => !by.is_empty() || !with.is_empty(),
        };
        refuse(is_grouped || select.having.is_some(), "a FOR UPDATE with GROUP BY")?;
        refuse(select.distinct.is_some(), "a FOR UPDATE with DISTINCT")?;
        let words = self.tokens.iter().rev().map(|token| &token.token);
        let mut words = words.filter(|token| !matches!(token, Token::Whitespace(_) | Token::EOF));
        refuse(
            !words.next().is_some_and(|last| is_keyword(last, "UPDATE")),
            "more than FOR UPDATE",
        )?;
        let odd_limit = matches!(&query.limit_clause, Some(limit) if !is_plain_limit(limit));
        refuse(odd_limit || query.fetch.is_some(), "this form of LIMIT")?;
        let rows = self.tail(&["WHERE", "ORDER", "LIMIT", "FOR"]);
        let order = self.tail(&["ORDER", "LIMIT", "FOR"]);
        let limit = self.tail(&["LIMIT", "FOR"]);
        let lock = self.tail(&["FOR"]);
        let is_limited = query.limit_clause.is_some();
        if is_limited {
            self.check_limited(query, select, order..limit)?;
        }
        // Without a limit, no order says which rows.
        let tail = rows..if is_limited { lock } else { order };
        Ok(Statement::Lock {
            rows: self.rows(table, alias, tail),
            query: self.picking(rows, order..limit),
        })
    }

    /// Where an `UPDATE` says in which order, which the parser does not know: it is read by itself.
    fn order_of_update(&self) -> Result<Range<usize>, Unprotected> {
        let nowhere = self.sql.len()..self.sql.len();
        let is_update = self
            .solid()
            .next()
            .is_some_and(|(_, first)| is_keyword(&first.token, "UPDATE"));
        let order = self.tail(&["ORDER"]);
        if !is_update || order == self.sql.len() {
            return Ok(nowhere);
        }
        let order = order..self.tail(&["LIMIT"]);
        let unreadable = |problem: String| Unprotected::Unreadable { problem };
        let tokens = self.within(&order);
        let mut parser = Parser::new(&MySqlDialect {}).with_tokens_with_locations(tokens);
        let by = parser
            .expect_keywords(&[Keyword::ORDER, Keyword::BY])
            .and_then(|()| parser.parse_comma_separated(Parser::parse_order_by_expr));
        let by = by.map_err(|error| unreadable(error.to_string()))?;
        if parser.peek_token_ref().token != Token::EOF {
            return Err(unreadable("the end of ORDER BY".to_owned()));
        }
        refuse(
            by.iter().any(|by| is_value(&by.expr)),
            "an UPDATE with an ORDER BY of a place",
        )?;
        Ok(order)
    }

    fn picking(&self, tail: usize, order: Range<usize>) -> Picking {
        Picking {
            head: self.sql[..tail].to_owned(),
            order: self.sql[order.clone()].to_owned(),
            params_of_head: self.params_before(tail),
            params_of_order: self.params_before(order.start)..self.params_before(order.end),
        }
    }

    /// Rows are picked before the query runs over them: what it asks for may have no part in which they are.
    fn check_limited(&self, query: &ast::Query, select: &ast::Select, order: Range<usize>) -> Result<(), Unprotected> {
        let is_over_all = self.called(false)?.iter().any(|name| {
            let name = name.to_ascii_uppercase();
            AGGREGATES.contains(&name.as_str())
        });
        refuse(
            is_over_all || self.has("OVER"),
            "a FOR UPDATE of an aggregate with LIMIT",
        )?;
        let by = query.order_by.as_ref().map(|order| &order.kind);
        let is_place = match by {
            None => false,
            Some(ast::OrderByKind::All(_)) => true,
            Some(ast::OrderByKind::Expressions(by)) => by.iter().any(|by| is_value(&by.expr)),
        };
        refuse(is_place, "a FOR UPDATE with LIMIT and an ORDER BY of a place")?;
        let words = self
            .tokens
            .iter()
            .zip(&self.starts)
            .filter(|(_, start)| order.contains(start));
        let words: Vec<&str> = words
            .filter_map(|(token, _)| match &token.token {
                Token::Word(word) => Some(word.value.as_str()),
                _ => None,
            })
            .collect();
        let is_alias = |item: &ast::SelectItem| match item {
            ast::SelectItem::ExprWithAlias { alias, .. } => {
                words.iter().any(|word| word.eq_ignore_ascii_case(&alias.value))
            }
            _ => false,
        };
        refuse(
            select.projection.iter().any(is_alias),
            "a FOR UPDATE with LIMIT and an ORDER BY of an alias",
        )
    }

    fn insert(&self, insert: ast::Insert) -> Result<Statement, Unprotected> {
        refuse(insert.replace_into, "REPLACE")?;
        refuse(insert.ignore, "INSERT IGNORE")?;
        let upsert = match &insert.on {
            None => None,
            Some(ast::OnInsert::DuplicateKeyUpdate(assignments)) => {
                let on = self.tail(&["ON"]);
                let columns: Result<Vec<String>, Unprotected> = assignments.iter().map(assigned).collect();
                Some(Upsert {
                    columns: columns?,
                    insert: self.sql[..on].to_owned(),
                    params: self.params_before(on),
                })
            }
            Some(_) => return Err(form("this form of INSERT")),
        };
        refuse(insert.returning.is_some(), "RETURNING")?;
        refuse(!insert.assignments.is_empty(), "INSERT … SET")?;
        let is_odd = insert.or.is_some()
            || insert.overwrite
            || insert.partitioned.is_some()
            || !insert.after_columns.is_empty()
            || insert.has_table_keyword
            || insert.priority.is_some()
            || insert.insert_alias.is_some()
            || insert.table_alias.is_some()
            || insert.settings.is_some()
            || insert.format_clause.is_some();
        refuse(is_odd, "this form of INSERT")?;
        let TableObject::TableName(table) = &insert.table else {
            return Err(form("a table other than one by its name"));
        };
        let table = name(table)?;
        let source = insert.source.ok_or(form("an INSERT without VALUES"))?;
        let SetExpr::Values(values) = *source.body else {
            return Err(form("INSERT … SELECT"));
        };
        refuse(values.explicit_row, "VALUES ROW")?;
        refuse(
            source.with.is_some() || source.order_by.is_some(),
            "this form of INSERT",
        )?;
        refuse(
            source.limit_clause.is_some() || !source.locks.is_empty(),
            "this form of INSERT",
        )?;
        let is_several = upsert.is_some() && values.rows.len() != 1;
        refuse(is_several, "ON DUPLICATE KEY UPDATE of several rows")?;
        let params = self.cell_params();
        let counted: Vec<usize> = params.iter().map(Vec::len).collect();
        let parsed: Vec<usize> = values.rows.iter().map(Vec::len).collect();
        refuse(counted != parsed, "a value of this form")?;
        let mut next = 0;
        let mut rows = Vec::with_capacity(values.rows.len());
        for (row, params) in values.rows.iter().zip(&params) {
            let mut cells = Vec::with_capacity(row.len());
            for (expression, params) in row.iter().zip(params) {
                cells.push(cell(expression, next));
                next += params;
            }
            rows.push(cells);
        }
        let columns: Vec<String> = insert
            .columns
            .iter()
            .map(|column| column.value.replace("``", "`"))
            .collect();
        Ok(Statement::Insert {
            table,
            columns: Some(columns).filter(|columns| !columns.is_empty()),
            rows,
            upsert,
        })
    }

    /// Of each row of an `INSERT`, how many `?` each value has.
    fn cell_params(&self) -> Vec<Vec<usize>> {
        let mut rows: Vec<Vec<usize>> = Vec::new();
        let mut tokens = self.solid();
        let is_values = |token: &Token| is_keyword(token, "VALUES") || is_keyword(token, "VALUE");
        // The names of columns stand in parentheses before.
        if !tokens.any(|(depth, token)| depth == 0 && is_values(&token.token)) {
            return rows;
        }
        for (depth, token) in tokens {
            match (&token.token, rows.last_mut()) {
                (on, _) if depth == 0 && is_keyword(on, "ON") => break,
                (Token::LParen, _) if depth == 0 => rows.push(vec![0]),
                (Token::Comma, Some(row)) if depth == 1 => row.push(0),
                (Token::Placeholder(_), Some(row)) => *row.last_mut().expect("a row begins with a value") += 1,
                _ => {}
            }
        }
        rows
    }
}

/// `LIMIT n`, `LIMIT n OFFSET m` or `LIMIT m, n`.
fn is_plain_limit(limit: &ast::LimitClause) -> bool {
    match limit {
        ast::LimitClause::LimitOffset { limit, limit_by, .. } => limit.is_some() && limit_by.is_empty(),
        ast::LimitClause::OffsetCommaLimit { .. } => true,
    }
}

fn is_value(expression: &Expr) -> bool {
    match expression {
        Expr::Value(_) => true,
        Expr::Nested(inner) => is_value(inner),
        _ => false,
    }
}

/// Functions of many rows.
const AGGREGATES: [&str; 22] = [
    "ANY_VALUE",
    "AVG",
    "BIT_AND",
    "BIT_OR",
    "BIT_XOR",
    "COUNT",
    "GROUP_CONCAT",
    "JSON_ARRAYAGG",
    "JSON_OBJECTAGG",
    "MAX",
    "MEDIAN",
    "MIN",
    "PERCENTILE_CONT",
    "PERCENTILE_DISC",
    "STD",
    "STDDEV",
    "STDDEV_POP",
    "STDDEV_SAMP",
    "SUM",
    "VARIANCE",
    "VAR_POP",
    "VAR_SAMP",
];

fn cell(expression: &Expr, param: usize) -> Cell {
    match expression {
        Expr::Value(value) => match &value.value {
            ast::Value::Placeholder(_) => Cell::Param(param),
            ast::Value::Null => Cell::Literal(Value::Null),
            ast::Value::Number(number, false) => match number.parse::<i64>() {
                Ok(number) => Cell::Literal(Value::Int(number)),
                Err(_) => Cell::Expression,
            },
            // An escape in it would have to be read as the server does.
            ast::Value::SingleQuotedString(text) if !text.contains(['\\', '\'']) => {
                Cell::Literal(Value::Text(text.clone()))
            }
            _ => Cell::Expression,
        },
        Expr::UnaryOp {
            op: ast::UnaryOperator::Minus,
            expr,
        } => match cell(expr, param) {
            Cell::Literal(Value::Int(number)) => Cell::Literal(Value::Int(-number)),
            _ => Cell::Expression,
        },
        Expr::Identifier(ident) if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("DEFAULT") => {
            Cell::Default
        }
        _ => Cell::Expression,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows(sql: &str) -> Rows {
        match understand(sql).expect("supported").statement {
            Statement::Update { rows, .. } | Statement::Delete(rows) | Statement::Lock { rows, .. } => rows,
            other => panic!("{other:?}"),
        }
    }

    /// Conditions are sent again as they were written, with their own values.
    #[test]
    fn the_parts_of_a_statement_are_cut_where_they_begin() {
        let update = rows("UPDATE t SET a = ?, b = 'where ?' WHERE c = ? AND d IN (?, 'ä\\'') limit 3 ;");
        assert_eq!(update.tail, "WHERE c = ? AND d IN (?, 'ä\\'') limit 3 ");
        assert_eq!((update.params_before, update.params, update.is_limited), (1, 2, true));
        let lock = rows("SELECT SUBSTRING(a FROM 1 FOR 2), ?\n FROM `t` AS x WHERE x.a = ?\nORDER BY b FOR UPDATE");
        assert_eq!(lock.tail, "WHERE x.a = ?\n");
        assert_eq!((lock.params_before, lock.params, lock.is_limited), (1, 1, false));
        assert_eq!(
            lock.select(7),
            "SELECT * FROM `t` AS `x` WHERE x.a = ?\n\nLIMIT 8\nFOR UPDATE"
        );
        let named = rows("UPDATE t AS x SET x.where = ?, x.limit = 2 WHERE x.order = ?");
        assert_eq!((named.tail.as_str(), named.params_before), ("WHERE x.order = ?", 1));
        let all = rows("DELETE FROM t");
        assert_eq!((all.tail.as_str(), all.params), ("", 0));
    }

    /// The rows are picked first; the query then sees no others.
    #[test]
    fn a_locking_query_runs_over_the_rows_that_were_picked() {
        let sql = "SELECT a + ? AS s FROM t x WHERE a > ? ORDER BY x.b * ?, c DESC LIMIT ? FOR UPDATE";
        let Statement::Lock { rows, query } = understand(sql).expect("supported").statement else {
            panic!("a lock");
        };
        assert_eq!(
            (rows.tail.as_str(), rows.is_limited),
            ("WHERE a > ? ORDER BY x.b * ?, c DESC LIMIT ? ", true)
        );
        assert_eq!((rows.params_before, rows.params), (1, 3));
        let params: Vec<Value> = (0..4).map(Value::Int).collect();
        let (sql, values) = query.over("`id` IN (?)", &[Value::Int(9)], &params);
        assert_eq!(
            sql,
            "SELECT a + ? AS s FROM t x \nWHERE `id` IN (?)\nORDER BY x.b * ?, c DESC "
        );
        assert_eq!(values, [0, 9, 2].map(Value::Int));
        for sql in [
            "SELECT a, b FROM t ORDER BY 1 LIMIT 1 FOR UPDATE",
            "SELECT a, b FROM t ORDER BY c, (2) LIMIT 1 FOR UPDATE",
            "SELECT a, b FROM t ORDER BY ? LIMIT 1 FOR UPDATE",
            "SELECT a AS b, b AS a FROM t ORDER BY a + 1 LIMIT 1 FOR UPDATE",
            "SELECT SUM(a) FROM t LIMIT 1 FOR UPDATE",
            "SELECT ROW_NUMBER() OVER (ORDER BY a) FROM t LIMIT 1 FOR UPDATE",
            "SELECT a FROM t ORDER BY a FETCH FIRST 1 ROWS ONLY FOR UPDATE",
        ] {
            assert!(matches!(understand(sql), Err(Unprotected::Form { .. })), "{sql}");
        }
        for sql in [
            "SELECT a, b FROM t ORDER BY 1 FOR UPDATE",
            "SELECT SUM(a) FROM t FOR UPDATE",
        ] {
            assert!(understand(sql).is_ok(), "{sql}");
        }
    }

    #[test]
    fn an_update_keeps_its_order() {
        let sql = "UPDATE t SET a = a + ? WHERE b > ? ORDER BY FIELD(id, ?, 4), a DESC LIMIT ?";
        let Statement::Update { rows, query, .. } = understand(sql).expect("supported").statement else {
            panic!("an update");
        };
        assert_eq!(rows.tail, "WHERE b > ? ORDER BY FIELD(id, ?, 4), a DESC LIMIT ?");
        assert_eq!((rows.params_before, rows.params, rows.is_limited), (1, 3, true));
        let params: Vec<Value> = (0..4).map(Value::Int).collect();
        let (sql, values) = query.over("`id` IN (?)", &[Value::Int(9)], &params);
        assert_eq!(
            sql,
            "UPDATE t SET a = a + ? \nWHERE `id` IN (?)\nORDER BY FIELD(id, ?, 4), a DESC "
        );
        assert_eq!(values, [0, 9, 2].map(Value::Int));
        for sql in [
            "UPDATE t SET a = 1 ORDER BY 1",
            "UPDATE t SET a = 1 ORDER BY ?",
            "UPDATE t SET a = 1 ORDER",
            "UPDATE t SET a = 1 ORDER BY a WHERE b = 1",
            "UPDATE t SET a = 1 ORDER BY a; DELETE FROM t",
            "UPDATE t SET a = 1 LIMIT 1 ORDER BY a",
        ] {
            assert!(understand(sql).is_err(), "{sql}");
        }
    }

    /// Looking for each place from the line's beginning would take minutes.
    #[test]
    fn a_long_line_of_values_is_read_in_one_go() {
        let sql = format!("DELETE FROM t WHERE a IN (?{})", ", ?".repeat(65_000));
        let long = rows(&sql);
        assert_eq!((long.params_before, long.params), (0, 65_001));
        let ending = format!("{sql} LIMIT ?");
        assert!(rows(&ending).is_limited);
    }

    #[test]
    fn an_insert_s_values_are_told_apart() {
        let sql = "INSERT INTO t (a, b, c) VALUES (?, CONCAT(?, 'x', ?), -7), (NULL, 'it''s', ?), ('v', DEFAULT, 2.5)";
        let Statement::Insert { rows, .. } = understand(sql).expect("supported").statement else {
            panic!("an insert");
        };
        let text = |text: &str| Cell::Literal(Value::Text(text.to_owned()));
        assert_eq!(
            rows,
            [
                vec![Cell::Param(0), Cell::Expression, Cell::Literal(Value::Int(-7))],
                vec![Cell::Literal(Value::Null), Cell::Expression, Cell::Param(3)],
                vec![text("v"), Cell::Default, Cell::Expression],
            ]
        );
    }

    #[test]
    fn a_write_in_a_read_s_clothes_is_refused() {
        for sql in [
            "SELECT * FROM t INTO OUTFILE '/tmp/x'",
            "SELECT 1 INTO @x",
            "WITH x AS (SELECT 1) DELETE FROM t",
            "SELECT * FROM a WHERE id IN (SELECT id FROM t FOR UPDATE)",
            "SELECT * FROM a JOIN t ON a.id = t.id FOR UPDATE",
            "SELECT a.* FROM a, t FOR UPDATE",
            "SELECT COUNT(*) FROM t GROUP BY a FOR UPDATE",
            "SELECT DISTINCT a FROM t FOR UPDATE",
            "SELECT * FROM t FOR UPDATE SKIP LOCKED",
            "SELECT a FROM t UNION SELECT a FROM u FOR UPDATE",
            "SELECT sys.f()",
            "SELECT /*+ SET_VAR(sql_mode = 'ANSI_QUOTES') */ a FROM t",
            "EXPLAIN DELETE FROM t",
            "DO f()",
            "",
        ] {
            assert!(understand(sql).is_err(), "{sql}");
        }
        assert_eq!(
            understand("SELECT * FROM t LIMIT 1;").map(|read| read.statement),
            Ok(Statement::Read)
        );
    }

    proptest! {
        #[test]
        fn no_statement_panics(sql in ".{0,60}", cut in 0_usize..80, more in "[a-z'\"`?(),;*= ]{0,12}") {
            let _ = understand(&sql);
            let known = "UPDATE t AS a SET b = ? WHERE c IN ('x', ?) -- y\n LIMIT 2 FOR UPDATE DELETE FROM INSERT VALUES";
            let _ = understand(&format!("{}{more}{}", &known[..cut], &known[cut..]));
        }
    }
}
