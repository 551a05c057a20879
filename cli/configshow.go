// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"github.com/BurntSushi/toml"
	"github.com/spf13/cobra"
)

// shownSettings is `config show --json`.
type shownSettings struct {
	Kind     kind           `json:"kind"`
	File     string         `json:"file"`     // empty: no file, all defaults
	Settings map[string]any `json:"settings"` // by section and key, as in the file
	Set      []string       `json:"set"`      // dotted keys that the file sets; all others are defaults
}

func (a *app) configShowCommand() *cobra.Command {
	var (
		asJSON bool
		file   string
	)
	c := &cobra.Command{
		Use:   "show host|runner",
		Short: "Print the settings in force and where each comes from",
		Long: `Prints all settings as a complete file, with a comment behind each that says
which line it is from, or that it is the default. Files, the first that exists:
--config, ~/.kohakuriver/*.toml, /etc/kohakuriver/*.toml.`,
		Args:      args(1, 1, "host or runner"),
		ValidArgs: []string{string(kindHost), string(kindRunner)},
		RunE: func(c *cobra.Command, given []string) error {
			k, err := parseKind(c.CommandPath(), given[0])
			if err != nil {
				return err
			}
			text, path, err := settingsText(k, file)
			if err != nil {
				return err
			}
			if !asJSON {
				a.out.write(string(text))
				return nil
			}
			shown := shownSettings{Kind: k, File: path, Settings: map[string]any{}, Set: []string{}}
			if _, err := toml.Decode(string(text), &shown.Settings); err != nil {
				return err
			}
			if path != "" {
				if shown.Set, err = keysSet(path); err != nil {
					return err
				}
			}
			a.out.json(shown)
			return nil
		},
	}
	jsonFlag(c, &asJSON)
	c.Flags().StringVar(&file, "config", "", "read `FILE`")
	return c
}

// settingsText is the settings in force as TOML, and the file they are from.
func settingsText(k kind, flag string) (text []byte, path string, err error) {
	if k == kindRunner {
		r, path, err := loadRunner(flag)
		if err != nil {
			return nil, "", err
		}
		return r.TOML(), path, nil
	}
	h, path, err := loadHost(flag)
	if err != nil {
		return nil, "", err
	}
	return h.TOML(), path, nil
}

// keysSet lists the keys that a valid file sets, without its sections.
func keysSet(path string) ([]string, error) {
	var any map[string]any
	md, err := toml.DecodeFile(path, &any)
	if err != nil {
		return nil, err
	}
	set := []string{}
	for _, k := range md.Keys() {
		if md.Type(k...) != "Hash" {
			set = append(set, k.String())
		}
	}
	return set, nil
}
