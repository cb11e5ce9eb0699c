// Runs templates as Ollama does (template/template.go of 2026: the same options, functions and kinds of values).
// Input: JSON [{"Template", "Values"}], output: JSON [text].
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"text/template"
)

type templateArgs map[string]any
type PropertyType []string

func (pt *PropertyType) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err == nil {
		*pt = []string{s}
		return nil
	}
	var a []string
	if err := json.Unmarshal(data, &a); err != nil {
		return err
	}
	*pt = a
	return nil
}
func (pt PropertyType) MarshalJSON() ([]byte, error) {
	if len(pt) == 1 {
		return json.Marshal(pt[0])
	}
	return json.Marshal([]string(pt))
}

type Property struct {
	Type        PropertyType
	Items       any
	Description string
	Enum        []any
}
type Parameters struct {
	Type       string
	Required   []string
	Properties map[string]Property
}
type Function struct {
	Name        string
	Description string
	Parameters  Parameters
}
type Tool struct {
	Type     string
	Function Function
}
type CallFunction struct {
	Index     int
	Name      string
	Arguments templateArgs
}
type ToolCall struct {
	ID       string
	Function CallFunction
}
type Message struct {
	Role, Content, Thinking string
	ToolCalls               []ToolCall
	ToolName, ToolCallID    string
}
type Case struct {
	Template string
	Values   struct {
		System   string
		Messages []*Message
		Tools    []Tool
	}
}

func main() {
	var cases []Case
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil {
		panic(err)
	}
	var out []string
	for _, c := range cases {
		t, err := template.New("").Option("missingkey=zero").Funcs(template.FuncMap{"json": func(v any) string { b, _ := json.Marshal(v); return string(b) }}).Parse(c.Template)
		if err != nil {
			out = append(out, "PARSE "+err.Error())
			continue
		}
		var b bytes.Buffer
		v := map[string]any{"System": c.Values.System, "Messages": c.Values.Messages, "Tools": c.Values.Tools, "Response": "", "Think": false, "IsThinkSet": false}
		if err := t.Execute(&b, v); err != nil {
			out = append(out, "EXEC "+err.Error())
			continue
		}
		out = append(out, b.String())
	}
	e := json.NewEncoder(os.Stdout)
	if err := e.Encode(out); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}
