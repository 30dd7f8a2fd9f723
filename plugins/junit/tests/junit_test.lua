local junit = require("junit")

local GOOD = '<testsuite><testcase classname="a.B" name="one" time="0.5"/>' ..
  '<testcase name="two"><skipped/></testcase></testsuite>'
local BAD = [==[<?xml version="1.0"?>
<testsuites><!-- <testcase name="no test"><failure/></testcase> --><testsuite name="s">
  <testcase classname="a.B" name="1 &lt; 2 &#38; more">
    <failure message="was &quot;x&quot;&#10;and more">in <![CDATA[<error/>]]> full</failure></testcase>
  <testcase name='fine > all' classname=''/>
  <testcase name="text"><system-out>&lt;failure/&gt;</system-out></testcase>
  <testcase name="broken"><error/><failure/></testcase>
</testsuite></testsuites>]==]

describe("junit.report", function()
  before_each(function()
    fs.mkdir("out")
    fs.write("out/good.xml", GOOD)
  end)

  it("counts what passed", function()
    local counts = junit.report("out/*.xml")
    expect(counts).contains({ tests = 2, passed = 1, skipped = 1, failed = 0, errors = 0, duration = 0.5, ok = true })
    expect(counts.failures).has_length(0)
  end)

  it("fails with the names of those that failed", function()
    fs.write("out/bad.xml", BAD)
    expect(function() junit.report({ paths = { "out/good.xml", "out/bad.xml" } }) end)
      .raises("2 of 6 tests failed: a.B.1 < 2 & more, broken")
    expect(function() junit.report("out/*.xml") end).raises("junit_tests_failed")
  end)

  it("gives them where the pipeline decides", function()
    fs.write("out/bad.xml", BAD)
    local counts = junit.report("out/*.xml", { fail_on = "never" })
    expect(counts.ok).is_false()
    expect(counts.failures[1]).equals({ name = "a.B.1 < 2 & more", kind = "failure", message = 'was "x"' })
    expect(counts.failures[2]).equals({ name = "broken", kind = "error" })
  end)

  it("tells ten of many", function()
    fs.write("out/many.xml", "<testsuite>" .. ('<testcase name="t"><failure/></testcase>'):rep(30) .. "</testsuite>")
    expect(junit.report("out/many.xml", { fail_on = "never" }).failures).has_length(10)
    expect(function() junit.report("out/many.xml") end).raises("t, ...")
  end)

  it("keeps the reports of several patterns in one artifact", function()
    fs.write("other.xml", GOOD)
    junit.report({ paths = { "out/*.xml", "other.xml" }, keep = "reports.zip" })
    expect(function() artifact.save({ path = "other.xml", name = "reports.zip" }) end).raises("reports.zip")
  end)

  it("refuses what is no report, and a pattern without files", function()
    fs.write("out/none.xml", "<html/>")
    expect(function() junit.report("out/none.xml") end).raises("report_invalid")
    expect(function() junit.report("nowhere/*.xml") end).raises("argument_invalid")
  end)
end)
