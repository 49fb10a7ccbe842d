use std::sync::mpsc;

use super::*;

static FLAG: Opt<bool> = Opt::new("flag", false, "A flag.");
static NAME: Opt<String> = Opt::<String>::new("name", "x", "A name.").choices(&["x", "y", "z"]);
static PORT: Opt<Option<i64>> = Opt::new("port", None, "A port.");
static LIST: Opt<Vec<String>> = Opt::<Vec<String>>::new("list", &["a"], "A list.");

fn options() -> Options {
    let options = Options::with_patience(Duration::from_millis(50));
    assert!(options.register_all(&[&FLAG, &NAME, &PORT, &LIST]).is_empty());
    options
}

/// Records the calls of a subscriber that refuses `port=13`.
fn watch(options: &Options) -> Arc<Mutex<Vec<String>>> {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let log = calls.clone();
    options.on_change(Arc::new(move |options, names| {
        let names: Vec<_> = names
            .iter()
            .map(|name| format!("{name}={}", options.get_value(name).unwrap()))
            .collect();
        log.lock().push(names.join(" "));
        match options.get(&PORT) {
            Some(13) => Err(OptionsError::invalid("port 13 is unlucky")),
            _ => Ok(()),
        }
    }));
    calls
}

#[test]
fn values_are_typed() {
    let options = options();
    assert_eq!(options.get(&LIST), ["a"]);
    options.set(&PORT, Some(8080)).unwrap();
    assert_eq!(options.get(&PORT), Some(8080));
    assert_eq!(options.has_changed("port"), Some(true));
    assert_eq!(options.has_changed("flag"), Some(false));
    assert_eq!(options.has_changed("nope"), None);
    options.reset_one("port").unwrap();
    assert_eq!(options.get(&PORT), None);
    assert_eq!(options.reset_one("nope").unwrap_err().to_string(), "No such option: nope");
}

#[test]
fn unregistered_options_have_their_default() {
    assert_eq!(Options::new().get(&NAME), "x");
}

#[test]
fn the_same_declaration_again_keeps_the_value() {
    let options = options();
    options.set(&FLAG, true).unwrap();
    assert_eq!(options.register(FLAG.decl()), None);
    assert!(options.get(&FLAG));
    let other = OptionDecl::new("flag", OptionType::Int, 7.into(), "", vec![]).unwrap();
    assert_eq!(options.register(other).unwrap(), "Over-riding existing option flag");
    assert_eq!(options.get_value("flag"), Some(7.into()));
    assert!(!options.get(&FLAG));
}

#[test]
fn a_refused_change_is_undone_and_told_twice() {
    let options = options();
    let calls = watch(&options);
    let change = vec![PORT.to(Some(13)), FLAG.to(true)];
    assert_eq!(options.update(change).unwrap_err().to_string(), "port 13 is unlucky");
    assert_eq!(options.get(&PORT), None);
    assert!(!options.get(&FLAG));
    assert_eq!(*calls.lock(), ["flag=true port=13", "flag=false port="]);
}

#[test]
fn an_invalid_value_changes_nothing() {
    let options = options();
    let calls = watch(&options);
    let change = vec![FLAG.to(true), NAME.to("w".to_owned())];
    let error = options.update(change).unwrap_err().to_string();
    assert_eq!(error, "invalid value 'w' for name: valid values are 'x', 'y', 'z'");
    let error = options.update(vec![("nope".into(), 1.into()), FLAG.to(true)]).unwrap_err();
    assert_eq!(error, OptionsError::Unknown(vec!["nope".into()]));
    assert!(options.set_specs(&["flag", "name=w"], true).is_err());
    assert!(!options.get(&FLAG));
    assert!(calls.lock().is_empty());
}

#[test]
fn nested_changes_are_undone_with_the_outer_one() {
    let options = options();
    let calls = Arc::new(Mutex::new(Vec::new()));
    let log = calls.clone();
    options.on_change(Arc::new(move |options, names| {
        log.lock().push(names.iter().cloned().collect::<Vec<_>>().join(" "));
        if names.contains("name") && names.len() == 1 {
            options.set(&FLAG, options.get(&NAME) == "y")?;
            if options.get(&NAME) == "z" {
                options.set(&FLAG, true)?;
                return Err(OptionsError::invalid("no z"));
            }
        }
        Ok(())
    }));
    options.set(&NAME, "y".to_owned()).unwrap();
    assert!(options.get(&FLAG));
    calls.lock().clear();
    assert!(options.set(&NAME, "z".to_owned()).is_err());
    assert_eq!(options.get(&NAME), "y");
    assert!(options.get(&FLAG));
    assert_eq!(*calls.lock(), ["name", "flag", "flag", "flag name"]);
}

#[test]
fn a_refused_nested_change_leaves_the_outer_one() {
    let options = options();
    options.on_change(Arc::new(|options, names| {
        if names.contains("name") {
            assert!(options.set(&PORT, Some(1)).is_err());
            return Ok(());
        }
        Err(OptionsError::invalid("no"))
    }));
    options.set(&NAME, "y".to_owned()).unwrap();
    assert_eq!((options.get(&NAME).as_str(), options.get(&PORT)), ("y", None));
}

#[test]
fn endless_changes_end() {
    let options = options();
    options.on_change(Arc::new(|options, _| options.set(&FLAG, !options.get(&FLAG))));
    let error = options.set(&FLAG, true).unwrap_err();
    assert!(matches!(error, OptionsError::TooDeep(names) if names == ["flag"]));
    assert!(!options.get(&FLAG));
}

#[test]
fn a_panic_in_the_subscriber_ends_the_transaction() {
    let options = options();
    options.on_change(Arc::new(|_, _| panic!("expected by the test")));
    let changed = options.clone();
    assert!(thread::spawn(move || changed.set(&FLAG, true)).join().is_err());
    options.on_change(Arc::new(|_, _| Ok(())));
    options.set(&FLAG, true).unwrap();
}

#[test]
fn other_threads_wait_and_ticket_holders_do_not() {
    let options = options();
    options.on_change(Arc::new(|options, names| {
        if !names.contains("name") {
            return Ok(());
        }
        let stranger = options.clone();
        let result = thread::spawn(move || stranger.set(&FLAG, true)).join().unwrap();
        assert_eq!(result, Err(OptionsError::Busy));
        let ticket = options.ticket().unwrap();
        let helper = options.clone();
        let result = thread::spawn(move || {
            let _entered = ticket.enter().unwrap();
            helper.set(&FLAG, true)
        });
        result.join().unwrap()
    }));
    options.set(&NAME, "y".to_owned()).unwrap();
    assert!(options.get(&FLAG));
    assert!(options.ticket().is_none());
}

#[test]
fn a_thread_that_waited_gets_its_turn() {
    let options = Options::with_patience(Duration::from_secs(20));
    options.register_all(&[&FLAG, &PORT]);
    let (began, begun) = mpsc::channel();
    let began = Mutex::new(began);
    options.on_change(Arc::new(move |_, names| {
        if names.contains("flag") {
            began.lock().send(()).unwrap();
            thread::sleep(Duration::from_millis(30));
        }
        Ok(())
    }));
    let first = options.clone();
    let first = thread::spawn(move || first.set(&FLAG, true));
    begun.recv().unwrap();
    options.set(&PORT, Some(1)).unwrap();
    first.join().unwrap().unwrap();
    assert_eq!(options.get(&PORT), Some(1));
}

#[test]
fn old_tickets_open_nothing() {
    let options = options();
    let kept = Arc::new(Mutex::new(None));
    let keep = kept.clone();
    options.on_change(Arc::new(move |options, _| {
        *keep.lock() = options.ticket();
        Ok(())
    }));
    options.set(&FLAG, true).unwrap();
    let ticket = kept.lock().take().unwrap();
    assert!(ticket.enter().is_none());
}

#[test]
fn deferred_values_are_read_when_the_option_exists() {
    let options = options();
    let late =
        OptionDecl::new("late", OptionType::OptionalInt, OptionValue::None, "", vec![]).unwrap();
    assert_eq!(
        options.set_specs(&["late=4", "flag"], false).unwrap_err(),
        OptionsError::Unknown(vec!["late".into()])
    );
    options.set_specs(&["late=3", "never=1", "flag"], true).unwrap();
    options.set_specs(&["late=4"], true).unwrap();
    assert!(options.get(&FLAG));
    assert_eq!(options.unknown_deferred().len(), 2);
    options.register(late);
    options.apply_deferred().unwrap();
    assert_eq!(options.get_value("late"), Some(4.into()));
    let unknown = UnknownOption { name: "never".into(), origin: None };
    assert_eq!(options.unknown_deferred(), [unknown]);
}

#[test]
fn a_deferred_value_that_is_refused_is_refused_once() {
    let options = options();
    options.set_specs(&["late=x"], true).unwrap();
    options.register(OptionDecl::new("late", OptionType::Int, 1.into(), "", vec![]).unwrap());
    let error = options.apply_deferred().unwrap_err().to_string();
    assert_eq!(error, "Failed to parse option late: not an integer: x");
    options.apply_deferred().unwrap();
}

#[test]
fn known_ones_can_be_set_and_the_rest_returned_or_kept() {
    let options = options();
    let changes = vec![FLAG.to(true), ("late".to_owned(), 5.into())];
    assert_eq!(options.update_known(changes.clone()).unwrap(), ["late"]);
    options.update_defer(changes).unwrap();
    options.register(OptionDecl::new("late", OptionType::Int, 1.into(), "", vec![]).unwrap());
    options.apply_deferred().unwrap();
    assert_eq!(options.get_value("late"), Some(5.into()));
}

#[test]
fn reset_tells_all_names() {
    let options = options();
    options.set(&FLAG, true).unwrap();
    let calls = watch(&options);
    options.reset().unwrap();
    assert_eq!(*calls.lock(), ["flag=false list=a name=x port="]);
}

#[test]
fn old_names_are_understood_in_specs() {
    let options = Options::new();
    options.register_all(&[&crate::core::CONFDIR]);
    let warnings = options.set_specs(&["cadir=/x"], false).unwrap();
    assert_eq!(options.get(&crate::core::CONFDIR), "/x");
    assert!(warnings[0].contains("confdir"), "{warnings:?}");
}
