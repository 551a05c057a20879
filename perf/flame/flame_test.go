// SPDX-License-Identifier: Apache-2.0

package flame

import (
	"bytes"
	"encoding/xml"
	"io"
	"strings"
	"testing"
)

const sample = `kohaku
	ffffffff81a0 copy_user
	ffffffff8001234500 sock_sendmsg
	          4a1b00 main.(*worker).send<&>
	          4a1b01 [unknown]

# a remark
swapper
	ffffffff81112233 default_idle

kohaku:
	ffffffff8001234500 sock_sendmsg
	4a1b00 main.(*worker).send<&>
	4a1b01 [unknown]
a name; odd
	ffffffffb0001111 one
`

func TestFold(t *testing.T) {
	g, err := Fold(strings.NewReader(sample))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := g.WriteFolded(&out); err != nil {
		t.Fatal(err)
	}
	want := `a name: odd;one_[k] 1
kohaku;?;main.(*worker).send<&>;sock_sendmsg 1
kohaku;?;main.(*worker).send<&>;sock_sendmsg;copy_user 1
`
	// 0xffffffff81a0 and 0xffffffff8001234500 are below and beyond 64 bit: the
	// first is user space, the second no address at all.
	if out.String() != want || g.Samples() != 3 {
		t.Errorf("%d samples:\n%swant:\n%s", g.Samples(), out.String(), want)
	}
}

func TestSVG(t *testing.T) {
	g, err := Fold(strings.NewReader(sample))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := g.WriteSVG(&out, `ours & <theirs>`); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ours &amp; &lt;theirs&gt;", "sock_sendmsg, 2 samples, 66.7 %", "main.(*worker).send&lt;&amp;&gt;"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the picture lacks %q:\n%s", want, out.String())
		}
	}
	wellFormed(t, out.Bytes())
}

func wellFormed(t *testing.T, b []byte) {
	t.Helper()
	for x := xml.NewDecoder(bytes.NewReader(b)); ; {
		if _, err := x.Token(); err == io.EOF {
			return
		} else if err != nil {
			t.Fatalf("the picture is no XML: %v", err)
		}
	}
}

func TestNothingRecorded(t *testing.T) {
	g, err := Fold(strings.NewReader("swapper\n\tffffffff81112233 idle\n\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := g.WriteSVG(io.Discard, ""); err == nil {
		t.Error("an empty picture was drawn")
	}
	if err := g.WriteFolded(io.Discard); err == nil {
		t.Error("an empty text was written")
	}
	if _, err := Fold(strings.NewReader("x\n\t1 " + strings.Repeat("y", 2*maxLine))); err == nil {
		t.Error("a line without end was taken")
	}
}

// FuzzFold asserts that whatever perf prints, what is drawn is XML, every sample
// is counted once, and folded stacks have their form.
func FuzzFold(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte("p\n\tffffffffffffffff \xff\xfe;x\n\n"))
	f.Add([]byte("p" + strings.Repeat("\n\t1 f", 300)))
	f.Fuzz(func(t *testing.T, in []byte) {
		g, err := Fold(bytes.NewReader(in))
		if err != nil || g.Samples() == 0 {
			return
		}
		var text, svg bytes.Buffer
		if err := g.WriteFolded(&text); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(text.String(), "\n"); got != len(g.stacks) {
			t.Fatalf("%d lines for %d stacks", got, len(g.stacks))
		}
		var sum int64
		for _, n := range g.stacks {
			sum += n
		}
		if sum != g.Samples() {
			t.Fatalf("%d samples in stacks, %d in all", sum, g.Samples())
		}
		if err := g.WriteSVG(&svg, string(in)); err != nil {
			t.Fatal(err)
		}
		wellFormed(t, svg.Bytes())
	})
}
