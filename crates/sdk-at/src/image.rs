//! Rows of a table between the database, the undo log and the global lock.

use crate::{
    AtError, Value,
    table::Table,
    undo::{Field, Image},
};

/// Some columns of some rows, as the database has them.
#[derive(Clone, PartialEq, Debug)]
pub struct Rows {
    /// Indexes into the table's columns; the primary key is among them.
    pub columns: Vec<usize>,
    pub rows: Vec<Vec<Value>>,
}

impl Rows {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    fn at(&self, column: usize) -> usize {
        let at = self.columns.iter().position(|have| *have == column);
        at.expect("the primary key is always among the columns")
    }

    /// The values of a row's primary key.
    pub fn key(&self, table: &Table, row: usize) -> Vec<Value> {
        let key = table.key.iter().map(|column| self.rows[row][self.at(*column)].clone());
        key.collect()
    }

    /// All rows' primary keys, one behind the other.
    pub fn keys(&self, table: &Table) -> Vec<Value> {
        (0..self.len()).flat_map(|row| self.key(table, row)).collect()
    }

    /// For the undo log.
    ///
    /// # Errors
    /// [`AtError::Table`] for what Java cannot keep exactly.
    pub fn image(&self, table: &Table, zone_micros: Option<i64>) -> Result<Image, AtError> {
        let field = |at: &usize, value: &Value| {
            let column = &table.columns[*at];
            let problem = |problem: String| column_problem(table, &column.name, &problem);
            let java = column.kind.to_java(value, zone_micros).map_err(problem)?;
            let again = column.kind.read_java(&java, zone_micros).map_err(problem)?;
            if again != *value {
                return Err(problem("it holds a value that would come back as another".to_owned()));
            }
            Ok(Field {
                name: column.name.clone(),
                is_key: table.is_key(*at),
                type_code: column.kind.type_code(),
                value: java,
            })
        };
        let row = |row: &Vec<Value>| {
            self.columns
                .iter()
                .zip(row)
                .map(|(at, value)| field(at, value))
                .collect()
        };
        let rows: Result<Vec<Vec<Field>>, AtError> = self.rows.iter().map(row).collect();
        Ok(Image {
            table: table.name.clone(),
            rows: rows?,
        })
    }

    /// The global locks of these rows, as Java writes them: `table:1,2`, with composite keys as `a_b`
    /// (`BaseTransactionalExecutor.buildLockKey`). None without rows.
    ///
    /// # Errors
    /// [`AtError::Table`] for a key that the coordinator would read as another.
    pub fn lock_key(&self, table: &Table) -> Result<Option<String>, AtError> {
        if self.rows.is_empty() {
            return Ok(None);
        }
        let mut text = format!("{}:", table.name);
        for row in 0..self.len() {
            let key: Vec<String> = self.key(table, row).iter().map(key_text).collect();
            let key = key.join("_");
            // Commas and semicolons part the keys, and a blank one is passed over.
            if key.contains([',', ';']) || key.trim().is_empty() {
                let problem =
                    format!("the key `{key}` of a row cannot be locked: it is blank, or has a comma or semicolon");
                return Err(AtError::table(&table.name, problem));
            }
            if row > 0 {
                text.push(',');
            }
            text.push_str(&key);
        }
        Ok(Some(text))
    }

    /// About as many bytes as they take in memory and in the undo log.
    pub fn weight(&self) -> usize {
        const FIELD: usize = 120;
        let value = |value: &Value| match value {
            Value::Text(text) => text.len() + FIELD,
            Value::Bytes(bytes) => bytes.len() / 3 * 4 + FIELD,
            _ => FIELD,
        };
        self.rows.iter().flatten().map(value).sum()
    }
}

pub fn column_problem(table: &Table, column: &str, problem: &str) -> AtError {
    AtError::table(&table.name, format!("column `{column}`: {problem}"))
}

fn key_text(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Int(number) => number.to_string(),
        Value::UInt(number) => number.to_string(),
        Value::Text(text) => text.clone(),
        Value::Double(_) | Value::Bytes(_) => unreachable!("a table with such a key is refused"),
    }
}

/// One row of an undo log, as the database would have it.
#[derive(Clone, PartialEq, Debug)]
pub struct Kept {
    /// The primary key's values in the table's order.
    pub key: Vec<Value>,
    /// Column and value, without the computed ones.
    pub values: Vec<(usize, Value)>,
}

impl Kept {
    /// Reads an image.
    ///
    /// # Errors
    /// [`AtError::Table`] when the table has changed since, or holds what cannot be told from what Java kept.
    pub fn read(table: &Table, image: &Image, zone_micros: Option<i64>) -> Result<Vec<Kept>, AtError> {
        image
            .rows
            .iter()
            .map(|row| Kept::row(table, row, zone_micros))
            .collect()
    }

    fn row(table: &Table, row: &[Field], zone_micros: Option<i64>) -> Result<Kept, AtError> {
        let mut values = Vec::with_capacity(row.len());
        for field in row {
            let at = table.column(&field.name);
            let at =
                at.ok_or_else(|| column_problem(table, &field.name, "it is in the undo log, and not in the table"))?;
            let column = &table.columns[at];
            if column.is_generated {
                continue;
            }
            let value = column.kind.read_java(&field.value, zone_micros);
            values.push((
                at,
                value.map_err(|problem| column_problem(table, &column.name, &problem))?,
            ));
        }
        let of = |column: &usize| {
            values
                .iter()
                .find(|(at, _)| at == column)
                .map(|(_, value)| value.clone())
        };
        let key: Option<Vec<Value>> = table.key.iter().map(of).collect();
        let key = key.ok_or_else(|| AtError::table(&table.name, "a row of the undo log lacks its primary key"))?;
        Ok(Kept { key, values })
    }

    /// The key for people.
    pub fn name(&self) -> String {
        let key: Vec<String> = self.key.iter().map(|value| format!("{value:?}")).collect();
        key.join("_")
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::{
        kind::Kind,
        table::{Column, java_order},
    };

    pub fn table(name: &str, columns: &[(&str, &str)], key: &[&str]) -> Table {
        let column = |(name, kind): &(&str, &str)| Column {
            name: (*name).to_owned(),
            kind: Kind::of(kind.split(['(', ' ']).next().expect("a type"), kind),
            is_auto_increment: false,
            is_generated: false,
            is_on_update: false,
        };
        let columns: Vec<Column> = columns.iter().map(column).collect();
        let at = |name: &&str| {
            columns
                .iter()
                .position(|column| column.name == **name)
                .expect("of the table")
        };
        let key = java_order(key.iter().map(at).collect(), |at: &usize| &columns[*at].name);
        Table {
            name: name.to_owned(),
            key,
            columns,
            has_more_unique: false,
            references: Vec::new(),
        }
    }

    #[test]
    fn locks_are_named_as_java_names_them() {
        let account = table("account", &[("id", "int(11)"), ("balance", "bigint(20)")], &["id"]);
        let rows = Rows {
            columns: vec![0, 1],
            rows: vec![vec![Value::Int(1), Value::Int(9)], vec![Value::Int(-2), Value::Int(9)]],
        };
        assert_eq!(
            rows.lock_key(&account).expect("plain keys").as_deref(),
            Some("account:1,-2")
        );
        let item = table(
            "item",
            &[("order_id", "bigint(20)"), ("user_id", "varchar(9)")],
            &["order_id", "user_id"],
        );
        let rows = |user: &str| Rows {
            columns: vec![0, 1],
            rows: vec![vec![Value::Int(7), Value::Text(user.to_owned())]],
        };
        assert_eq!(
            rows("ann").lock_key(&item).expect("plain keys").as_deref(),
            Some("item:ann_7")
        );
        for user in ["a,b", "a;b"] {
            assert!(rows(user).lock_key(&item).is_err(), "{user}");
        }
        let none = Rows {
            columns: vec![0],
            rows: vec![],
        };
        assert!(none.lock_key(&account).expect("no keys").is_none());
    }

    #[test]
    fn an_image_comes_back_as_it_was() {
        let columns = [
            ("id", "int(11)"),
            ("name", "varchar(9)"),
            ("price", "decimal(10,2)"),
            ("raw", "blob"),
        ];
        let goods = table("goods", &columns, &["id"]);
        let row = vec![
            Value::Int(1),
            Value::Null,
            Value::Text("-0.50".to_owned()),
            Value::Bytes(vec![0, 255]),
        ];
        let rows = Rows {
            columns: vec![0, 1, 2, 3],
            rows: vec![row.clone()],
        };
        let image = rows.image(&goods, None).expect("kinds that Java keeps");
        let kept = Kept::read(&goods, &image, None).expect("the same table");
        let values: Vec<(usize, Value)> = row.into_iter().enumerate().collect();
        assert_eq!(
            kept,
            [Kept {
                key: vec![Value::Int(1)],
                values
            }]
        );
        let altered = table("goods", &columns[..2], &["id"]);
        assert!(Kept::read(&altered, &image, None).is_err(), "a column is gone");
    }
}
