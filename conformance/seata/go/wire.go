package main

import (
	"encoding/json"
	"os"
	"sync"
	"time"
)

// The line protocol with the driver: one JSON object per line, commands on stdin, events on stdout.

var events struct {
	sync.Mutex
	out *os.File
}

// protectStdout sends what libraries print elsewhere, so that none can break the protocol.
func protectStdout() {
	events.out = os.Stdout
	os.Stdout = os.Stderr
}

type fields map[string]any

func event(name string, more fields) {
	line := fields{"event": name, "at_ms": time.Now().UnixMilli()}
	for key, value := range more {
		line[key] = value
	}
	text, err := json.Marshal(line)
	if err != nil {
		panic(err)
	}
	events.Lock()
	defer events.Unlock()
	if _, err := events.out.Write(append(text, '\n')); err != nil {
		os.Exit(1)
	}
}

func complain(err error) {
	event("error", fields{"message": err.Error()})
}

// Points at which a transfer stands still until the driver says how to go on.
var gates sync.Map

// pause reports that the transfer stands still and waits for the driver's word: "go" or "abort".
func pause(id, at, xid string) string {
	gate := make(chan string, 1)
	gates.Store(id, gate)
	event("paused", fields{"id": id, "at": at, "xid": xid})
	return <-gate
}

func open(id, word string) {
	gate, found := gates.LoadAndDelete(id)
	if !found {
		event("error", fields{"message": "nothing is paused under " + id})
		return
	}
	gate.(chan string) <- word
}
