//! Foreign keys that refer to a table: which there are, and whether any row refers to one of its rows.

use sqlx::{MySqlConnection, Row};

use crate::{
    AtError, Value,
    image::Kept,
    session,
    table::{Column, Follow, Guard, Reference, Table},
    value::quoted,
};

/// # Errors
/// [`AtError::Table`] when one cannot be told whole.
pub async fn look_up(on: &mut MySqlConnection, table: &str, columns: &[Column]) -> Result<Vec<Reference>, AtError> {
    // What is here compared regardless of case may be too many, which refuses more than it must.
    let sql = "SELECT CAST(CONSTRAINT_SCHEMA AS CHAR), CAST(TABLE_NAME AS CHAR), CAST(CONSTRAINT_NAME AS CHAR), \
               CAST(DELETE_RULE AS CHAR), CAST(UPDATE_RULE AS CHAR), CAST(UNIQUE_CONSTRAINT_NAME AS CHAR) \
               FROM information_schema.REFERENTIAL_CONSTRAINTS \
               WHERE UNIQUE_CONSTRAINT_SCHEMA = DATABASE() AND REFERENCED_TABLE_NAME = ?";
    let mut references = Vec::new();
    for row in sqlx::query(sql).bind(table).fetch_all(&mut *on).await? {
        let (database, name, constraint): (String, String, String) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let (on_delete, on_update): (String, String) = (row.try_get(3)?, row.try_get(4)?);
        let key: Option<String> = row.try_get(5)?;
        let sql = "SELECT CAST(COLUMN_NAME AS CHAR), CAST(REFERENCED_COLUMN_NAME AS CHAR) \
                   FROM information_schema.KEY_COLUMN_USAGE \
                   WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND CONSTRAINT_NAME = ? \
                   AND REFERENCED_COLUMN_NAME IS NOT NULL ORDER BY ORDINAL_POSITION";
        let pairs = sqlx::query(sql).bind(&database).bind(&name).bind(&constraint);
        let (mut from, mut to) = (Vec::new(), Vec::new());
        for pair in pairs.fetch_all(&mut *on).await? {
            from.push(pair.try_get(0)?);
            let referenced: String = pair.try_get(1)?;
            let is_it = |column: &Column| column.name.eq_ignore_ascii_case(&referenced);
            let at = columns.iter().position(is_it);
            to.push(at.ok_or_else(|| unclear(table, &constraint, &name))?);
        }
        if to.is_empty() {
            return Err(unclear(table, &constraint, &name));
        }
        let mut reference = Reference {
            database,
            table: name,
            columns: from,
            to,
            on_delete: follow(&on_delete),
            on_update: follow(&on_update),
            guard: Guard::Row,
        };
        reference.guard = guard(on, table, columns, &reference, key).await?;
        references.push(reference);
    }
    Ok(references)
}

fn unclear(table: &str, constraint: &str, name: &str) -> AtError {
    let problem = format!("the columns of the foreign key `{constraint}` of `{name}` cannot be told");
    AtError::table(table, problem)
}

fn follow(rule: &str) -> Follow {
    match rule {
        "RESTRICT" | "NO ACTION" => Follow::Never,
        "CASCADE" => Follow::Cascade,
        _ => Follow::Set,
    }
}

async fn guard(
    on: &mut MySqlConnection,
    table: &str,
    columns: &[Column],
    reference: &Reference,
    key: Option<String>,
) -> Result<Guard, AtError> {
    if reference.on_delete == Follow::Never && reference.on_update != Follow::Set {
        return Ok(Guard::Row);
    }
    let Some(key) = key else {
        return Ok(Guard::None("refers to no unique key".to_owned()));
    };
    let sql = "SELECT COUNT(*) FROM information_schema.STATISTICS \
               WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? AND INDEX_NAME = ? AND NON_UNIQUE = 0";
    let size: i64 = sqlx::query_scalar(sql)
        .bind(table)
        .bind(&key)
        .fetch_one(&mut *on)
        .await?;
    // Of several rows to which one refers, any may be the one that is locked.
    if usize::try_from(size) != Ok(reference.to.len()) {
        return Ok(Guard::None("refers to no unique key".to_owned()));
    }
    let name = format!("{}.{}", quoted(&reference.database), quoted(&reference.table));
    let sql = format!("SELECT 1 FROM {name} LIMIT 0");
    if let Err(error) = sqlx::query(&sql).fetch_optional(&mut *on).await {
        if error.as_database_error().is_none() {
            return Err(error.into());
        }
        return Ok(Guard::None("its rows cannot be read by this account".to_owned()));
    }
    if key == "PRIMARY" {
        return Ok(Guard::Row);
    }
    if reference.to.iter().any(|at| columns[*at].is_generated) {
        return Ok(Guard::None("refers to what the database computes".to_owned()));
    }
    Ok(Guard::Index(key))
}

/// Whether another row refers to this one, which is locked; from then on none can until the transaction ends.
///
/// # Errors
/// [`AtError::Table`] when that cannot be told.
pub async fn is_referred(
    on: &mut MySqlConnection,
    table: &Table,
    row: &Kept,
    reference: &Reference,
) -> Result<bool, AtError> {
    let parent = quoted(&table.name);
    match &reference.guard {
        Guard::Row => {}
        Guard::Index(index) => {
            let value = |at: &usize| {
                row.values
                    .iter()
                    .find(|(column, _)| column == at)
                    .map(|(_, value)| value.clone())
            };
            let values: Option<Vec<Value>> = reference.to.iter().map(value).collect();
            let Some(values) = values else {
                return Err(AtError::table(
                    &table.name,
                    "a row of the undo log lacks what others refer to",
                ));
            };
            if values.iter().any(Value::is_null) {
                return Ok(false);
            }
            let is = |at: &usize| format!("{} = ?", quoted(&table.columns[*at].name));
            let condition: Vec<String> = reference.to.iter().map(is).collect();
            let sql = format!(
                "SELECT 1 FROM {parent} FORCE INDEX ({}) WHERE {} FOR UPDATE",
                quoted(index),
                condition.join(" AND ")
            );
            session::fetch(on, &sql, &values).await?;
        }
        Guard::None(problem) => {
            let problem = format!("the foreign key of `{}` {problem}", reference.table);
            return Err(AtError::table(&table.name, problem));
        }
    }
    // A locking read, since another would look at what was there when the transaction began.
    let child = format!("{}.{}", quoted(&reference.database), quoted(&reference.table));
    let same = |(from, to): (&String, &usize)| format!("c.{} = p.{}", quoted(from), quoted(&table.columns[*to].name));
    let mut condition: Vec<String> = reference.columns.iter().zip(&reference.to).map(same).collect();
    condition.extend(
        table
            .key_columns()
            .map(|column| format!("p.{} = ?", quoted(&column.name))),
    );
    // A row that refers to itself goes with itself.
    if reference.table == table.name {
        let own = table
            .key_columns()
            .map(|column| format!("c.{0} = p.{0}", quoted(&column.name)));
        condition.push(format!("NOT ({})", own.collect::<Vec<_>>().join(" AND ")));
    }
    let sql = format!(
        "SELECT 1 FROM {parent} AS p STRAIGHT_JOIN {child} AS c WHERE {} LIMIT 1 LOCK IN SHARE MODE",
        condition.join(" AND ")
    );
    Ok(!session::fetch(on, &sql, &row.key).await?.is_empty())
}
